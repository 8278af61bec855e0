"""Prompts are files; their content is part of every key that depends on it.

A prompt file begins with its criterion, between two lines of three dashes, for the judge and the report:

    ---
    value: aesthetic value
    score: aesthetic score
    scale: "0: Very bad 4-5: Average 9: Excellent"
    ---
    Please evaluate ..
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import RecipeError

FOLDER = Path(__file__).parent / "prompts"


class Criterion(BaseModel):
    """The criterion of a score, in the words of the judge and the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(min_length=1)  # aesthetic value, technical quality, ..
    score: str = Field(min_length=1)  # aesthetic score, ..
    scale: str = Field(min_length=1)  # what 0, the middle and 9 mean


class Prompt(BaseModel):
    """The prompt of the model. `aesthetics` is the paper's prompt, word for word (appendix A.2)."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str
    criterion: Criterion

    def key_fields(self) -> dict[str, Any]:
        """The text alone; only the judge and the report use the criterion's names."""
        return {"text": self.text}


def load_prompt(name: str) -> Prompt:
    """Read a shipped prompt by its name, or one of the user's own by its path ending in .txt.

    Raises `RecipeError` that lists the shipped prompts, or names the problem of the file.
    """
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise RecipeError(
            f"prompt: there is no {name}; shipped are {known}, or give the path of a .txt file of your own"
        )
    content = path.read_text(encoding="utf-8")
    dashes, *parts = content.split("---\n", 2)
    if dashes or len(parts) != 2:
        raise RecipeError(
            f"prompt {path}: expected a header with value, score and scale between two lines of ---, then the prompt;"
            f" see {FOLDER.name}/aesthetics.txt"
        )
    try:
        criterion = Criterion.model_validate(yaml.safe_load(parts[0]))
    except (yaml.YAMLError, ValidationError) as error:
        raise RecipeError(f"prompt {path}: its header must give value, score and scale as text: {error}") from error
    text = parts[1].strip()
    missing = [tag for tag in ("#Score", "#Explain") if tag not in text]
    if missing:
        raise RecipeError(f"prompt {path}: it must ask for the tags #Score and #Explain; it lacks {', '.join(missing)}")
    return Prompt(name=path.stem, text=text, criterion=criterion)
