"""Linear programmes over the batches of an iteration."""
