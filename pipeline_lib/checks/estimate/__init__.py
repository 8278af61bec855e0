"""Memory and hours of a run before it: counted from the model's configuration and the recipe, no weight is loaded."""
