"""Recipes: the fields that every method has (`base`), how a YAML file becomes a recipe (`load`), `seeds`.

`load` finds the methods by their folders and imports the recipe class of one method only.
May import errors, progress, sampling, tables and store.
"""
