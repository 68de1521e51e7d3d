"""Certificates and their independent checker: see the issue on theory."""
