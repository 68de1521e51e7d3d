"""Processes that work on parts of a run and end with their parent."""
