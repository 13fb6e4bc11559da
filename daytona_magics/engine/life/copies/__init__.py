"""Copies of a sandbox's files: beside it for a fork, packed into one file for an archive."""
