"""What a request needs of an engine: tokens, memory, slots, time; facets of what an engine
gives.
"""
