"""The two prompts of the method: comparing two images, and rating one. Their texts are part of the keys."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.errors import RecipeError

FOLDER = Path(__file__).parent / "prompts"


class Prompts(BaseModel):
    """What the model is asked; both answers end in `\\boxed{}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compare: str = Field(min_length=1)  # about two images: 0, the first is better, or 1, the second
    rate: str = Field(min_length=1)  # about one image: a number of 1..5


def load_prompts(name: str) -> Prompts:
    """Read shipped prompts by their name, or one's own by a path that ends in .yaml.

    Raises `RecipeError` that lists the shipped ones, or names the problem of the file.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise RecipeError(
            f"prompts: there is no {name}; shipped are {known}, or give the path of a .yaml file of your own"
        )
    try:
        found = Prompts.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        raise RecipeError(f"prompts {path}: expected the texts `compare` and `rate`: {error}") from error
    for what, text in found:
        if "\\boxed{}" not in text:
            raise RecipeError(f"prompts {path}: `{what}` must ask for an answer in \\boxed{{}}, which is read")
    return found
