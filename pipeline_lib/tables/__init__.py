"""Arrow schemas of the tables that stages publish, and the check that a table conforms to its schema.

May import errors, progress and sampling.
"""
