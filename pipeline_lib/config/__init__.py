"""Recipes: what those of all methods have (`base`), and how a file becomes one (`load`)."""
