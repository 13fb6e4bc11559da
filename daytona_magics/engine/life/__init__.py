"""The life of sandboxes: their states, what changes them, what is done without being asked."""
