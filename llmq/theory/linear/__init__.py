"""Linear programmes and polytopes, in floats and in fractions."""
