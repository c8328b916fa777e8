"""kmodd keeps out-of-tree kernel modules built, signed and loadable for every installed kernel."""

__version__ = "0.1.0"

#: Of kmodd's programs, whatever they are started with: who else may read a file is said where it is made.
UMASK = 0o077
