"""What happens: the simulators, their statistics and their checks."""
