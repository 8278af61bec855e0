"""EvoQuality (arXiv 2509.25787): a scorer from images without labels, by voting over pairs and ranking.

May import the shared rooms of `pipeline_lib`, and no other method.
"""
