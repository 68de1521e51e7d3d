"""The version, where everything can read it; results carry it."""

__version__ = "0.1.0"
