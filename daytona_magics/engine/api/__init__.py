"""The engine's HTTP side: the routes, error bodies and access rules that a Daytona client expects."""
