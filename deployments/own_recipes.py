"""Recipes of people's own in the forms of the deployments: files of a folder or bucket, and pasted text.

`whyscore deploy --recipes` lists the files once. The forms offer their names, which travel to the workers in the
environment; the content of a file is read when a run begins, so a changed file counts without another deploy.
"""

import json
import os
import re
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.config.load import read_yaml, recipe_from_text
from pipeline_lib.data.files import access, is_remote, join, parent, read_file
from pipeline_lib.errors import RecipeError, WhyScoreError

FOLDER = "WHYSCORE_OWN_RECIPES"
"""Environment variable: where the files are."""

NAMES = "WHYSCORE_OWN_RECIPE_NAMES"
"""Environment variable: the names of each method's recipes, as JSON."""

OWN = "own/"
"""Begins the name of each, so that none is taken for a shipped recipe."""

MOST_BYTES = 100_000
"""Of a file or a pasted text; the shipped recipes have some thousand."""

MOST_FILES = 1000

MOST_ENTRIES = 20_000
"""Of files of any kind below the folder: `--recipes /` is a mistake."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")


class PastedRecipe(BaseModel):
    """A recipe as the text of a YAML file."""

    model_config = ConfigDict(extra="forbid", title="Pasted YAML", hide_input_in_errors=True)

    yaml: str = Field(
        title="YAML",
        description="The text of a recipe file; paths in it must be absolute or s3://, as the workers see them",
    )


class Listed(NamedTuple):
    """The environment that tells workers of the recipes, and lines about them for the person who deploys."""

    variables: dict[str, str]
    lines: list[str]


def list_recipes(folder: str) -> Listed:
    """Look at every `.yaml` and `.yml` file below a folder, local or s3://.

    One that is no recipe is left out, and a line says why. Raises `WhyScoreError` when there is no such file, or more
    than `MOST_FILES`.
    """
    folder = folder.rstrip("/") if is_remote(folder) else os.path.abspath(folder)
    files = sorted(name for name in _below(folder) if name.endswith((".yaml", ".yml")))
    if not files or len(files) > MOST_FILES:
        raise WhyScoreError(f"--recipes {folder}: found {len(files)} files (.yaml, .yml); expected 1 to {MOST_FILES}")
    names: dict[str, list[str]] = {}
    lines = []
    for file in files:
        name = f"{OWN}{file}"
        try:
            if not _NAME.fullmatch(file):
                raise RecipeError("its name must have letters, digits and . _ - alone")
            recipe = _read(join(folder, file))
        except WhyScoreError as error:
            lines.append(f"left out {file}: {error}")
            continue
        names.setdefault(recipe.method, []).append(name)
        lines.append(f"recipe {name} ({recipe.method})")
    return Listed({FOLDER: folder, NAMES: json.dumps(names)}, lines)


def own_recipes(method: str) -> list[str]:
    """The names of a method's own recipes, as the environment tells them."""
    names: dict[str, list[str]] = json.loads(os.environ.get(NAMES) or "{}")
    return names.get(method, [])


def is_own(name: str) -> bool:
    """Whether a name is that of an own recipe."""
    return any(name in own_recipes(method) for method in json.loads(os.environ.get(NAMES) or "{}"))


def read_own(name: str, overrides: dict[str, Any]) -> BaseRecipe:
    """The own recipe of a name, as its file is now; raises `RecipeError`."""
    return _read(join(os.environ[FOLDER], name.removeprefix(OWN)), overrides)


def read_pasted(pasted: PastedRecipe, overrides: dict[str, Any]) -> BaseRecipe:
    """The recipe of a pasted text; raises `RecipeError`."""
    return _parse(pasted.yaml, "pasted", None, overrides)


def name_to_show(recipe: object) -> str:
    """The name that a flow run gets: that of the recipe, as far as it can be told without reading a file."""
    if isinstance(recipe, BaseRecipe):
        return recipe.name
    if isinstance(recipe, PastedRecipe):
        try:
            fields = read_yaml(recipe.yaml, "pasted")
        except RecipeError:
            return "pasted"
        return str(fields.get("name", "pasted"))[:100] if isinstance(fields, dict) else "pasted"
    return str(recipe).removeprefix(OWN).removesuffix(".yaml").removesuffix(".yml")


def _below(folder: str) -> list[str]:
    """The files below a folder; raises `WhyScoreError` when they are too many for a folder of recipes."""
    if is_remote(folder):
        return list(access(folder).sizes(folder))
    found: list[str] = []
    for at, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(at, name), folder) for name in names]
        if len(found) > MOST_ENTRIES:
            raise WhyScoreError(f"--recipes {folder}: more than {MOST_ENTRIES:,} files; give the folder of the recipes")
    return found


def _read(path: str, overrides: dict[str, Any] | None = None) -> BaseRecipe:
    try:
        if not is_remote(path) and os.path.getsize(path) > MOST_BYTES:
            raise RecipeError(f"recipe {path} has more than {MOST_BYTES:,} bytes")
        text = read_file(path).decode("utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    return _parse(text, path, parent(path), overrides)


def _parse(text: str, source: str, folder: str | None, overrides: dict[str, Any] | None) -> BaseRecipe:
    if len(text) > MOST_BYTES:
        raise RecipeError(f"recipe {source}: it has {len(text):,} characters; a recipe has at most {MOST_BYTES:,}")
    read_yaml(text, f"recipe {source}")  # its message for what is not YAML
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise RecipeError(f"recipe {source}: it repeats a part by an alias (*name); write the part out")
    return recipe_from_text(text, source, folder, overrides)
