"""The tables that stages publish, by theme: each has a name, a version and an Arrow schema.

May import errors, progress and sampling.
"""
