"""The embedded engine: a Daytona-compatible server on the user's own machine, in a process of its own."""
