"""What comes from outside: text, tables, numbers and arguments, each checked within stated
limits.
"""
