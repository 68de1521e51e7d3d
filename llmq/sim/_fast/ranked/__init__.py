"""Many lanes in step; requests are served by rank."""
