"""Many lanes in step; decodes of a slot keep their place."""
