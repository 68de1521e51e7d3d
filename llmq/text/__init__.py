"""Text from outside: files, configuration tables and numbers, each read within stated limits."""
