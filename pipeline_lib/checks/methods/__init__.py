"""The checks of each method, a module a method with the method's name; a method without one has the common ones.

`CHECKS` are those of `whyscore doctor`: they take the place of a common one of their name, or stand behind them.
`stages(recipe, facts, tokens)` gives the stages of a run for an estimate of memory and hours; without it there is none.
`surveys(recipe)` gives the tables that `whyscore check-data` shows, with their titles; without it, the table of `data`.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from pipeline_lib.checks.doctor import COMMON, Check
from pipeline_lib.checks.estimate.stages import StagesOf
from pipeline_lib.checks.survey import Survey, survey_data
from pipeline_lib.config.base import BaseRecipe


def checks_of(method: str) -> dict[str, Check]:
    """The checks of a method by name, in their order; the estimate is last, because it uses what the others found."""
    checks = COMMON | getattr(_module(method), "CHECKS", {})
    return {name: check for name, check in checks.items() if name != "size"} | {"size": checks["size"]}


def stages_of(method: str) -> StagesOf | None:
    """What counts the stages of a method; None: nothing does."""
    found: StagesOf | None = getattr(_module(method), "stages", None)
    return found


def surveys_of(recipe: BaseRecipe) -> list[tuple[str, Survey]]:
    """The tables of a recipe with their titles; a title is empty where there is one table."""
    surveys = getattr(_module(recipe.method), "surveys", None)
    found: list[tuple[str, Survey]] = surveys(recipe) if surveys else [("", survey_data(recipe.data, recipe.seed))]
    return found


def _module(method: str) -> ModuleType | None:
    name = f"{__name__}.{method}"
    return import_module(name) if find_spec(name) else None
