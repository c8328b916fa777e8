"""kmodd keeps out-of-tree kernel modules built, signed and loadable for every installed kernel."""

__version__ = "0.1.0"
