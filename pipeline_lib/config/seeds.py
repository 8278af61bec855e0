"""One recipe with several seeds."""

from collections.abc import Sequence
from typing import TypeVar

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.errors import RecipeError
from pipeline_lib.store.runs import seed_name

Recipe = TypeVar("Recipe", bound=BaseRecipe)

FEWEST = 2


def recipe_of_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe of one seed: everything that is drawn follows from the seed, and the run has a name of its own.

    The data stay; splits that the recipe draws are drawn again.
    """
    return recipe.model_copy(update={"seed": seed, "name": seed_name(recipe.name, seed)})


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise `RecipeError` unless there are at least two different seeds, none of them negative or given twice."""
    if len(seeds) < FEWEST or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise RecipeError(
            f"seeds {', '.join(map(str, seeds)) or '(none)'}: give at least {FEWEST} different ones, 0 or above, e.g."
            " --seeds 1,2,3"
        )
