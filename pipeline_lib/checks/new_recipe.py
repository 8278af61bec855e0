"""Write a commented recipe for a table that was looked at (`columns.look_at_table`).

A method whose folder has a template `new.yaml.j2` can be chosen. The template decides which settings a recipe gets;
this module fills in what was found and checks that the result is what was meant.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml

import pipeline_lib.methods
from pipeline_lib.checks.columns import Found
from pipeline_lib.config.base import BaseRecipe, Data, ImageData
from pipeline_lib.config.load import load_recipe, method_names
from pipeline_lib.data import files
from pipeline_lib.data.table import check_table, too_few_images
from pipeline_lib.errors import DataError, RecipeError
from pipeline_lib.methods.self_improve.bins import LEAST_IMAGES

TEMPLATE = "new.yaml.j2"
_METHODS = Path(pipeline_lib.methods.__path__[0])
_SHARES = ((0.1, 0.1), (0.2, 0.2), (0.3, 0.2), (0.4, 0.2))
"""Of validation and test, from the usual one to those of tables with few images."""
_USUAL_FROM = 1000


class Answers(NamedTuple):
    """The choices for a recipe; a column that is None is not used."""

    method: str
    name: str
    image_column: str
    score_column: str | None
    split_column: str | None
    group_column: str | None
    model: str = "bundled"
    revision: str | None = None
    criterion: str | None = None
    questions: str | None = None


def methods_with_template() -> list[str]:
    """The methods that `whyscore new` can write a recipe of."""
    return [method for method in method_names() if (_METHODS / method / TEMPLATE).is_file()]


def suggested_name(table: str) -> str:
    """A name for the run, from that of the table or folder."""
    last = re.split(r"[/\\]", table.rstrip("/\\"))[-1]
    stem = last.rpartition(".")[0] if "." in last.strip(".") and not files.is_folder(table) else last
    plain = re.sub(r"[^a-z0-9_.-]+", "-", stem.lower()).strip("-._")
    return plain or "mine"


def suggested_place(table: str) -> Path:
    """The recipe's file: beside the table or the folder of images; here, if that is on S3."""
    name = f"{suggested_name(table)}.yaml"
    return Path(name) if files.is_remote(table) else Path(table.rstrip("/") or "/").parent / name


def write_recipe(found: Found, answers: Answers, out: Path, *, replace: bool = False) -> tuple[BaseRecipe, list[str]]:
    """Write the recipe and load it again. Returns it, and the problems that `check-data` will name.

    Raises `RecipeError` when the file exists (unless `replace`), or an answer does not fit; nothing is written then.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{out}: expected a path that ends in .yaml")
    if out.exists() and not replace:
        raise RecipeError(f"{out} exists; give another path with --out, or --replace to replace it")
    if not out.absolute().parent.is_dir():
        raise RecipeError(f"{out}: there is no folder {out.parent}")
    text = recipe_text(found, answers, out)
    partial = out.with_name(f".{out.name}.partial.yaml")
    try:
        partial.write_text(text, encoding="utf-8")
        recipe = load_recipe(partial)
        _check_is_meant(recipe, found, answers)
        if replace:
            os.replace(partial, out)
        else:
            try:
                os.link(partial, out)  # fails if somebody has written the file by now
            except FileExistsError:
                raise RecipeError(f"{out} exists; give another path with --out, or --replace to replace it") from None
    finally:
        partial.unlink(missing_ok=True)
    least = LEAST_IMAGES if isinstance(recipe.data, Data) else {}
    return recipe, check_table(recipe.data, recipe.seed, least).problems


def recipe_text(found: Found, answers: Answers, out: Path) -> str:
    """The text of the recipe, with paths relative to its place. Raises `RecipeError` when an answer does not fit."""
    if answers.method not in methods_with_template():
        raise RecipeError(f"--method {answers.method}: give one of {', '.join(methods_with_template())}")
    if answers.method == "stic" and not answers.questions:
        raise RecipeError("stic needs a table of questions with answers: give it with --questions")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_METHODS / answers.method),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = yaml_text
    bundled = answers.model == "bundled"
    val, test = split_shares(found, answers)
    train = int(found.rows * (1 - val - test))
    text = environment.get_template(TEMPLATE).render(
        answers._asdict()
        | {
            "said": said_of(found, answers),
            "table": _from(out, found.table),
            "images": _from(out, found.images) if found.images else "",
            "questions": _from(out, answers.questions) if answers.questions else None,
            "criterion": _criterion(answers.criterion, out, bundled=bundled),
            "bundled": bundled,
            "rows": found.rows,
            "val_fraction": val,
            "test_fraction": test,
            "pairs": _pairs(train, 480 if bundled else 20_000),
            "held_out": _pairs(int(found.rows * val), 200 if bundled else 500),
        }
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def yaml_text(value: str) -> str:
    """A text as YAML on one line, in quotes unless it is a plain word."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value:
        return value
    written: str = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
    return written.strip()


def said_of(found: Found, answers: Answers) -> list[str]:
    """The facts about the table, a line each, for the recipe's comments; no text of the table breaks a line."""
    lines = [f"The table has {found.rows:,} rows." if found.kind != "images" else f"{found.rows:,} images."]
    for what, candidates, taken in (
        ("Images", found.image, answers.image_column),
        ("Scores", found.score, answers.score_column),
        ("Splits", found.split, answers.split_column),
        ("Groups", found.group, answers.group_column),
    ):
        if found.kind == "images":
            break
        lines += [
            f"{what}: column {column.name}, {column.why}." for column in candidates.columns if column.name == taken
        ]
        others = [column.name for column in candidates.columns if column.name != taken]
        if others:
            lines.append(f"{what} could be in {', '.join(others)} too; not used.")
    lines += [f"{note[0].upper()}{note[1:]}." for note in found.notes]
    return ["".join(sign if sign.isprintable() else " " for sign in " ".join(line.split())) for line in lines]


def split_shares(found: Found, answers: Answers) -> tuple[float, float]:
    """The first shares of validation and test with which each drawn split has enough images, if there are any."""
    if found.rows >= _USUAL_FROM or answers.split_column:
        return _SHARES[0]
    for val, test in _SHARES[1:]:
        data = ImageData(
            table=found.table,
            images=found.images,
            image_column=answers.image_column,
            split_column=None,
            group_column=answers.group_column,
            val_fraction=val,
            test_fraction=test,
        )
        if not too_few_images(check_table(data, 0).images.rows["split"], LEAST_IMAGES):
            return val, test
    return _SHARES[1]


def _pairs(images: int, most: int) -> int:
    """Pairs of so many images, a third of all there are at most: some images may be copies or unreadable."""
    return max(1, min(most, images * (images - 1) // 6))


def _criterion(criterion: str | None, out: Path, *, bundled: bool) -> str:
    if criterion is None:
        return "aesthetics_short" if bundled else "aesthetics"  # the bundled model knows short prompts alone
    return _from(out, criterion) if criterion.endswith(".txt") else criterion


def _from(out: Path, path: str) -> str:
    """A path as the recipe names it: relative to the recipe's folder."""
    if files.is_remote(path):
        return path
    relative = os.path.relpath(os.path.expanduser(path), out.absolute().parent).replace(os.sep, "/")
    return f"./{relative}" if relative[0] == "~" else relative


def _check_is_meant(recipe: BaseRecipe, found: Found, answers: Answers) -> None:
    """Raise `RecipeError` when the recipe that was loaded is not the one that was asked for."""
    wanted: Mapping[str, Any] = {
        "method": answers.method,
        "name": answers.name,
        "data.image_column": answers.image_column,
        "data.split_column": answers.split_column,
        "data.group_column": answers.group_column,
        "model.id": os.path.expanduser(answers.model),
    } | ({"data.score_column": answers.score_column} if isinstance(recipe.data, Data) else {})
    for field, value in wanted.items():
        loaded: Any = recipe
        for part in field.split("."):
            loaded = getattr(loaded, part)
        if loaded != value:
            raise RecipeError(f"{field}: {value!r} cannot be written into a recipe; it is read back as {loaded!r}")
    for table in (found.table, *filter(None, [answers.questions])):
        if not files.is_remote(table) and not os.path.exists(os.path.expanduser(table)):
            raise DataError(f"{table} does not exist")
