"""What is possible: stability regions, prices and exact laws. Never imports policies or sim."""
