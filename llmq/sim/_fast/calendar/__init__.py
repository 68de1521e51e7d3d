"""One path; decodes advance together, so ends are known when decoding starts."""
