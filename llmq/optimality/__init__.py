"""Is a policy throughput-optimal? Verdicts, networks, searches for instability, saturated
engines.
"""
