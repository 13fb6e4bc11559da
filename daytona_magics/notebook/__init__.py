"""The Jupyter side of a running cell: the main-thread pump, display, status lines and cards."""
