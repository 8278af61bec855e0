"""A VLM that learns to judge answers about images with a reason, from images and questions alone (arXiv 2512.05145).

May import the shared rooms of `pipeline_lib`; it imports no other method.
"""
