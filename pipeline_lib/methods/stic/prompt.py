"""A set of prompts is a YAML file; its content is part of every key that depends on it.

curated: Please provide a detailed description ..     # its answer is preferred
plain: [Illustrate the details of the picture., ..]    # stored with the image and both answers
bad: [Describe the image with imaginative objects ..]  # its answer is dis-preferred
describe: Detail the composition ..                    # of the descriptions before a question
infused: "Image description:\\n{description}\\n\\n{question}"
"""

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline_lib.errors import RecipeError

FOLDER = Path(__file__).parent / "prompts"

Text = Annotated[str, Field(min_length=1)]


class Prompts(BaseModel):
    """The prompts of a run; `stic` holds those of the paper's experiments, word for word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    curated: Text
    plain: Annotated[tuple[Text, ...], Field(min_length=1)]
    bad: Annotated[tuple[Text, ...], Field(min_length=1)]
    describe: Text
    infused: Text

    @field_validator("infused")
    @classmethod
    def _has_both_parts(cls, infused: str) -> str:
        if missing := [part for part in ("{description}", "{question}") if infused.count(part) != 1]:
            raise ValueError(f"must hold {' and '.join(missing)} once")
        return infused

    def key_fields(self) -> dict[str, Any]:
        """The texts; the name of the file changes nothing."""
        return self.model_dump(exclude={"name"})


def infused_question(infused: str, description: str, question: str) -> str:
    """The question behind the description of its image, in the form of a set of prompts (`Prompts.infused`)."""
    parts = {"description": description, "question": question}
    return re.sub(r"\{(description|question)\}", lambda found: parts[found[1]], infused)


def load_prompts(name: str) -> Prompts:
    """Read a shipped set of prompts by its name, or one of the user's own by its path ending in .yaml.

    Raises `RecipeError` that lists the shipped sets, or names the problem of the file.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise RecipeError(f"prompts: there is no {name}; shipped are {known}, or give the path of a .yaml of your own")
    try:
        return Prompts.model_validate({**yaml.safe_load(path.read_text(encoding="utf-8")), "name": path.stem})
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        raise RecipeError(f"prompts {path}: expected curated, plain, bad, describe and infused: {error}") from error
