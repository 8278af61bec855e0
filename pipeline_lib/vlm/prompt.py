"""Prompts are files; what they say is part of every key that depends on them."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import RecipeError

FOLDER = Path(__file__).parent / "prompts"


class Prompt(BaseModel):
    """What the model is asked. `aesthetics` is the paper's prompt, word for word (appendix A.2)."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str


def load_prompt(name: str) -> Prompt:
    """Read a prompt file by its name; raises `RecipeError` listing the prompts there are."""
    path = FOLDER / f"{name}.txt"
    known = sorted(file.stem for file in FOLDER.glob("*.txt"))
    if name not in known:
        raise RecipeError(f"prompt: no file {path.name} in {FOLDER.name}/; there are {', '.join(known)}")
    return Prompt(name=name, text=path.read_text(encoding="utf-8").strip())
