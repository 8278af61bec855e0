"""The methods, one folder each. A folder is a method, and its module `recipe` gives its recipe class as `RECIPE`.

A method holds its recipe, prompts and logic. It may import the shared rooms up to `report`, and no other method.
No shared room before this one imports a method.
"""
