"""Read a recipe of any method. Only this module lists the methods: each folder in `methods/` is one."""

import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

import pipeline_lib.methods
from pipeline_lib.addresses import without_secrets
from pipeline_lib.config.base import SECRET, BaseRecipe, RelativeToRecipe
from pipeline_lib.errors import RecipeError

DEFAULT_METHOD = "self_improve"
"""The method of a recipe without `method`."""

SHIPPED = Path(__file__).parents[2] / "recipes"
"""The recipes that are installed with WhyScore: of the checkout, or of the wheel."""


def method_names() -> list[str]:
    """The methods there are, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(pipeline_lib.methods.__path__) if found.ispkg)


def recipe_class(method: object) -> type[BaseRecipe]:
    """The recipe of a method: `RECIPE` in its module `recipe`. Raises `RecipeError` for an unknown method."""
    if method not in method_names():
        found = shorten(without_secrets(repr(method)))
        raise RecipeError(f"method: there is no method {found}; there are {', '.join(method_names())}")
    recipe: type[BaseRecipe] = importlib.import_module(f"pipeline_lib.methods.{method}.recipe").RECIPE
    return recipe


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

    A relative path in the file is relative to the file's folder, in every field that is marked as `RelativeToRecipe`;
    one in `overrides` to the working directory. `recipes/<method>/<name>.yaml` is a shipped recipe where there is no
    such file here, with paths as if it were here. Raises `RecipeError` that lists every wrong field at once.
    """
    path = Path(path)
    try:
        content = _content(path)
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except ValueError as error:  # of the path or of the text
        raise RecipeError(f"recipe {path} is not valid YAML: {error}") from error
    return recipe_from_text(content, str(path), str(path.parent), overrides)


def recipe_from_text(text: str, source: str, folder: str | None, overrides: dict[str, Any] | None = None) -> BaseRecipe:
    """As `load_recipe`, from the text of a recipe of any place; `source` names it in messages.

    `folder`, local or s3://, is the one that relative paths are relative to. Without one they are refused.
    """
    fields = read_yaml(text, f"recipe {source}")
    if not isinstance(fields, dict):
        raise RecipeError(f"recipe {source} must be a mapping of fields, found {type(fields).__name__}")
    of_method = recipe_class(fields.get("method", DEFAULT_METHOD))
    return parse_recipe(_resolve_paths(of_method, fields, folder), overrides, source=source)


def _content(path: Path) -> str:
    """The text of a recipe; that of the shipped one for `recipes/..` where there is no such file here."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path.parts[:1] != (SHIPPED.name,) or ".." in path.parts:
            raise
        shipped = SHIPPED.joinpath(*path.parts[1:])
        if not shipped.is_file():
            raise
        return shipped.read_text(encoding="utf-8")


def read_yaml(text: str, source: str) -> Any:
    """A value written in YAML; raises `RecipeError` for any text that is not valid."""
    try:
        return yaml.safe_load(text)
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # a tag, a number, brackets
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(
            f"{source} is not valid YAML{where}: {problem}; put text with special characters in quotes"
        ) from None


def _resolve_paths(kind: Any, value: Any, folder: str | None) -> Any:
    """The value of a field of some type, with `folder` before each relative path that the type marks."""
    found = get_origin(kind)
    if found is Annotated:
        of, *marks = get_args(kind)
        for mark in marks:
            if isinstance(mark, RelativeToRecipe) and isinstance(value, str):
                is_path = value and "://" not in value and value[0] != "~" and value.endswith(mark.ending)
                return _beside(folder, value) if is_path else value
        return _resolve_paths(of, value, folder)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        types = get_type_hints(kind, include_extras=True)
        known = {name: types[name] for name in value if name in kind.model_fields}
        return value | {name: _resolve_paths(of, value[name], folder) for name, of in known.items()}
    if found is tuple and isinstance(value, list):
        return [_resolve_paths(get_args(kind)[0], part, folder) for part in value]
    if found in (Union, UnionType):
        for of in get_args(kind):
            value = _resolve_paths(of, value, folder)
    return value


def _beside(folder: str | None, path: str) -> str:
    """A path of a recipe in a folder."""
    if path.startswith("/"):
        return path
    if folder is None:
        raise RecipeError(
            f"{shorten(path)} is relative to the folder of the recipe's file, and this recipe has none: give an"
            " absolute path or s3://"
        )
    if "://" in folder:
        return f"{folder.rstrip('/')}/{path}"
    # Of a shipped recipe: `recipes/x/../..` leads nowhere where there is no such folder.
    return str(Path(folder) / path) if Path(folder).is_dir() else os.path.normpath(Path(folder) / path)


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
    where = shorten(".".join(str(part) for part in problem["loc"])) or "recipe"
    if problem["type"] == "extra_forbidden":
        section = _section_at(of_method, problem["loc"][:-1])
        return f"{where}: unknown field" + (f"; known here: {', '.join(section.model_fields)}" if section else "")
    if problem["type"] == "missing":
        return f"{where}: required, and missing"
    if problem["type"] == SECRET:
        return f"{where}: {problem['msg']}"
    found = shorten(without_secrets(repr(problem["input"])))
    if where == "model.revision":
        return f"{where}: must be a commit of 40 hex digits, in quotes, found {found}"
    return f"{where}: {problem['msg']}, found {found}"


def _section_at(of_method: type[BaseRecipe], place: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The section that a place in a recipe belongs to, through lists and optional sections."""
    section: type[BaseModel] | None = of_method
    for part in place:
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return None
        section = next(_sections_in(section.model_fields[part].annotation), None)
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)


def shorten(text: str, most: int = 100) -> str:
    """A text for a message."""
    return text if len(text) <= most else f"{text[:most]}.. ({len(text):,} characters)"
