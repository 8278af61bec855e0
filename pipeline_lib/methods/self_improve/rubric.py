"""The question to a judge model: a rubric file, filled with the criterion, a score and its explanation.

Placeholders are {value}, {score_name}, {a_score_name} (with its article), {Score_name} (capitalised), {scale}, {score}
and {text}; all other braces are plain text.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_improve.prompt import Criterion

FOLDER = Path(__file__).parent / "rubrics"

_PLACEHOLDER = re.compile(r"\{(value|score_name|a_score_name|Score_name|scale|score|text)\}")
_SPOKEN_AS_CONSONANT = re.compile(r"(uni|use|usa|eu|one)", re.IGNORECASE)
_SPOKEN_AS_VOWEL = re.compile(r"([aeiou]|hon|hour)", re.IGNORECASE)


class Rubric(BaseModel):
    """A judge's instructions. `paper` is the paper's, word for word (appendix A.2)."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str

    def key_fields(self) -> dict[str, Any]:
        """The text alone: a rubric's name changes no verdict."""
        return {"text": self.text}

    def message(self, criterion: Criterion, score: int | str, text: str) -> str:
        """The rubric for one explanation; braces in the criterion or in the text are plain text."""
        name = criterion.score
        vowel = _SPOKEN_AS_VOWEL.match(name) and not _SPOKEN_AS_CONSONANT.match(name)
        values = {
            "value": criterion.value,
            "score_name": name,
            "a_score_name": f"{'an' if vowel else 'a'} {name}",
            "Score_name": name[:1].upper() + name[1:],
            "scale": criterion.scale,
            "score": str(score),
            "text": text,
        }
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)

    def digest(self, criterion: Criterion) -> str:
        """Sha256 of the parts that are the same in all messages of a criterion."""
        return hashlib.sha256(self.message(criterion, "{score}", "{text}").encode()).hexdigest()


def load_rubric(name: str) -> Rubric:
    """Read a shipped rubric; raises `RecipeError` that lists the shipped ones."""
    path = FOLDER / f"{name}.txt"
    known = sorted(file.stem for file in FOLDER.glob("*.txt"))
    if name not in known:
        raise RecipeError(f"judge.openai.rubric: there is no {name}; there are {', '.join(known)}")
    text = path.read_text(encoding="utf-8").strip()
    missing = [tag for tag in ("{score}", "{text}") if tag not in text]
    if missing:
        raise RecipeError(f"rubric {path}: it must hold {' and '.join(missing)}, or the judge would not see them")
    return Rubric(name=name, text=text)
