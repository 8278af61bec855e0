"""The model card of the demo's base VLM."""

from pathlib import Path

_CARD = """# The demo's base VLM

TODO

{figures}
"""


def write_card(folder: Path, figures: dict[str, float]) -> None:
    """Write `README.md` beside the weights: how the model was made, its figures and what it cannot do."""
    lines = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    (folder / "README.md").write_text(_CARD.format(figures=lines), encoding="utf-8")
