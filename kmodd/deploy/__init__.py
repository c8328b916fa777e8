"""What changes a root, one file an act. None decides whether it is due."""
