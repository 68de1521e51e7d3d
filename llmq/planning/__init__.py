"""How many GPUs: search for the smallest fleet, latency without queueing, plans, the largest
rate.
"""
