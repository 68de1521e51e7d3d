"""Simulators for systems of known structure, equal to the reference bit for bit."""
