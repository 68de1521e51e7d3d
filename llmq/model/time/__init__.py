"""The time of one iteration: a law of tokens, KV read and attention work."""
