"""Many lanes in step; decodes advance together."""
