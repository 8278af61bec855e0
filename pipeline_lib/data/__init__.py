"""Images and tables: known data sets, a user's own table, splits, and images opened safely and from a pixel cache.

Files may lie in a folder or on S3.
May import config, device, openai_server and the rooms before them. It does not know a model or a method.
"""
