"""Use a trained model: find it in a store, read new images, write predictions, export it for a server.

May import every room but demo, checks and testing.
"""
