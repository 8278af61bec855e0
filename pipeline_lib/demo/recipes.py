"""The demo of a method: its recipe `recipes/<method>/demo.yaml`, and the data sets that the recipe names.

A path of the form `../../whyscore-data/demo/<kind>/seed-0/<file>` names one of the data sets in `WRITERS`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline_lib.config.base import BaseRecipe
from pipeline_lib.config.load import SHIPPED, method_names, parse_recipe
from pipeline_lib.demo.dataset import write_dataset
from pipeline_lib.demo.method_data import write_answer_pairs, write_questions, write_unlabelled
from pipeline_lib.errors import RecipeError
from pipeline_lib.store.runs import seed_name

WRITERS: Mapping[str, Callable[[Path, int], Path]] = {
    "scores": write_dataset,
    "unlabelled": write_unlabelled,
    "questions": write_questions,
    "answer_pairs": write_answer_pairs,
}
"""The kinds of data of the demos; each function writes one into a folder and returns the path of its table."""
_DEMO_PATH = re.compile(r"\.\./\.\./whyscore-data/demo/(\w+)/seed-0/[^/]+")


def methods_with_demo() -> list[str]:
    """The methods that have a demo, `self_improve` first."""
    found = [method for method in method_names() if (SHIPPED / method / "demo.yaml").is_file()]
    return sorted(found, key=lambda method: (method != "self_improve", method))


def demo_recipe(method: str, folder: Path, seed: int, overrides: dict[str, Any]) -> BaseRecipe:
    """Write the data sets of a method's demo for one seed into `folder`, and return its recipe.

    Its store is in `folder` too, unless `overrides` name another. Raises `RecipeError` when the method has no demo.
    """
    if method not in methods_with_demo():
        raise RecipeError(f"there is no demo of {method!r}; there are demos of {', '.join(methods_with_demo())}")
    fields = yaml.safe_load((SHIPPED / method / "demo.yaml").read_text(encoding="utf-8"))
    fields = _with_data(fields, folder / "demo", seed)
    fields["name"] = seed_name(fields["name"], seed)
    fields.setdefault("runtime", {})["store"] = str(folder / "store")
    return parse_recipe(fields, overrides, source=f"the demo of {method}")


def _with_data(value: Any, folder: Path, seed: int) -> Any:
    """A part of a recipe with each path of a demo data set replaced by that of the seed's data set."""
    if isinstance(value, dict):
        return {name: _with_data(part, folder, seed) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_data(part, folder, seed) for part in value]
    named = _DEMO_PATH.fullmatch(value) if isinstance(value, str) else None
    if named is None:
        return value
    kind = named[1]
    return str(WRITERS[kind](folder / kind / f"seed-{seed}", seed))
