"""One path, row by row: slow and plainly right."""
