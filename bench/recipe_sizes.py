"""Write the estimates of the large recipes into their headers and recipes/README.md: `python -m bench.recipe_sizes`.

They are those of `whyscore doctor RECIPE --card a6000` and `--card h100`. Where a table is neither here nor published,
its number of rows is the paper's, or assumed (`ROWS`).
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_lib.checks.estimate.ceiling import CARDS
from pipeline_lib.checks.estimate.report import Estimate, estimate
from pipeline_lib.checks.methods import stages_of
from pipeline_lib.config.load import load_recipe
from pipeline_lib.vlm.model_ref import resolve_model

RECIPES = Path(__file__).parents[1] / "recipes"
ROWS: dict[str, dict[str, Any]] = {
    "stic": {"questions": 4241},  # ScienceQA's test split
    "self_judge": {
        "kinds": {"train": {"open": 40_000, "closed": 40_000}, "val": {"open": 5000, "closed": 5000}},
        "answer pairs": 1250 + 4711,  # VL-RewardBench, Multimodal RewardBench
    },
}
BEGIN, END = "<!-- estimates: python -m bench.recipe_sizes -->", "<!-- end of estimates -->"
HEADER = ["recipe", "tokens an image", "weights", "memory: training", "memory: generation", "A6000", "H100"]


class Figures(NamedTuple):
    """The estimates of a recipe on each card."""

    a6000: Estimate
    h100: Estimate


def large_recipes() -> list[Path]:
    """Those of models that are too large for a demo."""
    return sorted([*RECIPES.glob("*/paper/*.yaml"), RECIPES / "self_improve" / "koniq10k_qwen3-vl-8b.yaml"])


def figures(path: Path) -> Figures:
    """The estimates of a recipe; the hub is not asked."""
    recipe = load_recipe(str(path), {})
    counted, base, facts = stages_of(recipe.method), resolve_model(recipe.model), ROWS.get(recipe.method, {})
    assert counted is not None
    return Figures(**{card: estimate(recipe, base, facts, counted, card) for card in CARDS})


def sentence(found: Figures) -> str:
    """The lines of a header."""
    memory = f"{found.h100.memory / 1e9:.2g} GB of device memory"
    hours = [f"{_hours(of.hours)} on {of.ceiling.device.replace('an ', 'one ')}" for of in found]
    words = f"Expect about (an estimate, nothing of it is measured; recipes/README.md says how): {memory}, {hours[0]},"
    words += f" {hours[1]}."
    lines: list[str] = []
    line = "#"
    for word in words.split():
        if len(line) + len(word) >= 118:
            lines, line = [*lines, line], "#"
        line += f" {word}"
    return "\n".join([*lines, line]) + "\n"


def with_sentence(text: str, words: str) -> str:
    """A recipe with these lines in its header, in the place of earlier ones, or behind the first comment."""
    text, count = re.subn(r"# Expect about[\s\S]*?\.\n", lambda _: words, text, count=1)
    if count:
        return text
    comment = re.match(r"(#.*\n)+", text)
    assert comment is not None
    return text[: comment.end()] + "#\n" + words + text[comment.end() :]


def table(found: dict[Path, Figures]) -> str:
    """The table of recipes/README.md."""
    rows = [HEADER, ["---"] * len(HEADER)]
    for path, (a6000, h100) in found.items():
        by = {
            kind: max(c.memory for c in h100.costs if (c.stage.does in ("generate", "read")) is kind)
            for kind in (True, False)
        }
        rows.append([
            f"`{path.relative_to(RECIPES).with_suffix('')}`", f"{h100.size.image.tokens:,}",
            f"{h100.size.parameters * 2 / 1e9:.3g} GB", f"{by[False] / 1e9:.2g} GB", f"{by[True] / 1e9:.2g} GB",
            f"{_hours(a6000.hours)}", f"{_hours(h100.hours)}",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(text: str, lines: str) -> str:
    """README.md with this table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.split(END)[1]}"


def _hours(hours: float) -> str:
    return f"{float(f'{hours:.2g}'):,.3g} hours" if hours >= 1 else "less than 1 hour"


def main() -> None:
    """The command line."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    found = {path: figures(path) for path in large_recipes()}
    for path, of_recipe in found.items():
        path.write_text(with_sentence(path.read_text(encoding="utf-8"), sentence(of_recipe)), encoding="utf-8")
    readme = RECIPES / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
