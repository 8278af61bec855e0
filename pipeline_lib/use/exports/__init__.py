"""The export of each method, a module a method with the method's name.

`export_of(store, recipe, iteration, kind)` gives a model of the recipe's run with what its folder says (`Export`). A
method without a module has models that are not exported.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.store import ArtifactStore

if TYPE_CHECKING:
    from pipeline_lib.use.export_folder import Export


def export_of(store: ArtifactStore, recipe: BaseRecipe, iteration: int | None, kind: str | None) -> "Export":
    """A model of a recipe's run, to be written by `write_folder`.

    Raises `RecipeError` for a method whose models are not exported, and what the method raises.
    """
    name = f"{__name__}.{recipe.method}"
    if not find_spec(name):
        raise RecipeError(f"--export: models of {recipe.method} are not exported")
    found: Export = import_module(name).export_of(store, recipe, iteration, kind)
    return found
