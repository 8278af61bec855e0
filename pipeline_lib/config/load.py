"""Read a recipe of any method. Only this module lists the methods: each folder in `methods/` is one."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

import pipeline_lib.methods
from pipeline_lib.config.base import SPLITS, BaseRecipe
from pipeline_lib.errors import RecipeError

DEFAULT_METHOD = "self_improve"
"""The method of a recipe without `method`."""


def method_names() -> list[str]:
    """The methods there are, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(pipeline_lib.methods.__path__) if found.ispkg)


def recipe_class(method: object) -> type[BaseRecipe]:
    """The recipe of a method: `RECIPE` in its module `recipe`. Raises `RecipeError` for an unknown method."""
    if method not in method_names():
        raise RecipeError(f"method: there is no method {method!r}; there are {', '.join(method_names())}")
    found: type[BaseRecipe] = importlib.import_module(f"pipeline_lib.methods.{method}.recipe").RECIPE
    return found


Recipe = TypeVar("Recipe", bound=BaseRecipe)


def load_recipe_of(kind: type[Recipe], path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """As `load_recipe`; raises `RecipeError` when the recipe is of another method than that of `kind`."""
    return of_kind(kind, load_recipe(path, overrides))


def of_kind(kind: type[Recipe], recipe: BaseRecipe) -> Recipe:
    """The recipe itself; raises `RecipeError` when it is of another method than that of `kind`."""
    if not isinstance(recipe, kind):
        wanted = kind.model_fields["method"].default
        raise RecipeError(f"recipe {recipe.name} is of method {recipe.method}; this is for recipes of {wanted}")
    return recipe


def load_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> BaseRecipe:
    """Read a YAML recipe of any method; `overrides` maps dotted field names to values, e.g. `{"data.table": "my.csv"}`.

    A relative path in the file (`data.table`, `data.images`, `data.split_lists`, tables of `evaluation.also`, a
    `prompt` ending in .txt) is relative to the file's folder; one in `overrides` to the working directory. Raises
    `RecipeError` that lists every wrong field at once.
    """
    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"recipe {path} must be a mapping of fields, found {type(fields).__name__}")
    _resolve_paths(fields, path.parent)
    return parse_recipe(fields, overrides, source=str(path))


def _resolve_paths(fields: dict[str, Any], folder: Path) -> None:
    data = fields.get("data")
    lists = data.get("split_lists") if isinstance(data, dict) else None
    evaluation = fields.get("evaluation")
    also = evaluation.get("also") if isinstance(evaluation, dict) else None
    sections: list[tuple[Any, tuple[str, ...]]] = [
        (data, ("table", "images")),
        (lists, SPLITS),
        (fields, ("prompt",)),
        *((other, ("table", "images")) for other in (also if isinstance(also, list) else [])),
    ]
    for section, names in sections:
        for name in names:
            value = section.get(name) if isinstance(section, dict) else None
            if not isinstance(value, str) or not value or "://" in value:
                continue
            if name != "prompt" or value.endswith(".txt"):  # other prompts are names, not paths
                section[name] = str(folder / value)


def parse_recipe(
    fields: dict[str, Any], overrides: dict[str, Any] | None = None, *, source: str = "recipe"
) -> BaseRecipe:
    """Validate recipe fields, some of them overridden by their dotted names.

    Raises `RecipeError` naming each wrong field, what was found and what is allowed.
    """
    for dotted, value in (overrides or {}).items():
        section: Any = fields
        *parents, leaf = dotted.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise RecipeError(f"--set {dotted}: {parent} is not a section of the recipe")
        section[leaf] = value
    of_method = recipe_class(fields.get("method", DEFAULT_METHOD))
    try:
        return of_method.model_validate(fields)
    except ValidationError as error:
        lines = [_explain(problem, of_method) for problem in error.errors()]
        raise RecipeError("\n  ".join([f"{source}: {len(lines)} problem(s)", *lines])) from None


def _explain(problem: Any, of_method: type[BaseRecipe]) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "extra_forbidden":
        section: Any = of_method
        for part in problem["loc"][:-1]:  # a number is an index in a list, whose type is the first argument
            section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
        return f"{where}: unknown field; known here: {', '.join(section.model_fields)}"
    if problem["type"] == "missing":
        return f"{where}: required, and missing"
    if where == "model.revision":
        return f"{where}: must be a commit of 40 hex digits, in quotes, found {problem['input']!r}"
    return f"{where}: {problem['msg']}, found {problem['input']!r}"
