"""Previews: what servers inside sandboxes answer, shown to browsers and programs on this machine."""
