"""What the engine remembers: one SQLite database, opened by the engine alone."""
