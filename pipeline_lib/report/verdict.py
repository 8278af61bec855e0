"""The verdict of a run: what its model is worth, in plain words for a person with images.

The stage that makes a method's report computes it once, and writes it beside the report as `verdict.jsonl`. The report,
`whyscore run`, `status`, `predict` and the UI read it from there, so they never disagree (decision 22).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import LostArtifactError
from pipeline_lib.metrics.scores import Estimate
from pipeline_lib.store import ArtifactRef, ArtifactStore, Manifest
from pipeline_lib.store.gc import references
from pipeline_lib.store.runs import RunFolder, RunModel

FILE = "verdict.jsonl"
"""One line of JSON; in the folder of a run, files that end in .json are pointers."""

LEAST_USEFUL = 0.2
"""A model whose SRCC is surely below this tells hardly more than a coin: it orders 57 % of pairs rightly."""

Answer = Literal["yes", "no", "not shown"]

ANSWERS: dict[Answer, str] = {"yes": "Yes.", "no": "No.", "not shown": "Not shown."}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Point(_Frozen):
    """A question, its answer in a few words, and sentences with the figures behind it."""

    question: str
    answer: str
    reasons: tuple[str, ...] = ()


class Best(_Frozen):
    """The model to use, and the rule by which it is the best; iteration 0 is the base model."""

    iteration: int
    kind: str
    rule: str  # the highest SRCC unfitted on validation
    value: float  # of that figure

    @property
    def name(self) -> str:
        """Name of the model as in reports, e.g. `ite-2 merged`."""
        return RunModel(self.iteration, self.kind).name


class Verdict(_Frozen):
    """The verdict of a run; `answer` is that of the first point, which asks whether the model is of use at all."""

    answer: Answer
    points: tuple[Point, ...]
    next_steps: tuple[str, ...] = ()
    best: Best | None = None  # None: nothing measured says which model is the best
    warnings: tuple[str, ...] = ()  # for whoever uses the model


def beyond_chance(srcc: Estimate, *, alike: bool = False) -> Answer:
    """Whether a model tells good images from bad ones, from the interval of its SRCC with people's scores.

    *No* if the whole interval is below `LEAST_USEFUL`, or the predictions are all `alike`, so that there is no SRCC.
    *Yes* if it is above 0 otherwise. Else *not shown*: the interval holds both a useful model and chance, or there is
    none.
    """
    if alike:
        return "no"
    if not (math.isfinite(srcc.low) and math.isfinite(srcc.high)):
        return "not shown"
    if srcc.high < LEAST_USEFUL:
        return "no"
    return "yes" if srcc.low > 0 else "not shown"


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """Write the verdict among the files of a report; the same verdict gives the same bytes."""
    (folder / FILE).write_text(verdict.model_dump_json() + "\n", encoding="utf-8")


def verdict_text(verdict: Verdict) -> str:
    """The verdict for a terminal: each question with its answer, and the sentences below it."""
    lines: list[str] = []
    for heading, answer, sentences in _parts(verdict):
        lines.append(f"{heading} {answer}".rstrip())
        lines += [f"  {sentence}" for sentence in sentences]
    return "\n".join(lines)


def verdict_markdown(verdict: Verdict) -> str:
    """The same for the UI."""
    parts = []
    for heading, answer, sentences in _parts(verdict):
        listed = "".join(f"\n- {sentence}" for sentence in sentences)
        parts.append(f"**{heading} {answer}".rstrip() + "**" + (f"\n{listed}" if listed else ""))
    return "\n\n".join(parts)


def verdict_line(verdict: Verdict) -> str:
    """The verdict in one line: the first answer, and the model to use."""
    first = verdict.points[0]
    best = f" Best model: {verdict.best.name}." if verdict.best else ""
    return f"{first.question} {first.answer}{best}"


def verdict_of(store: ArtifactStore, ref: ArtifactRef) -> Verdict | None:
    """The verdict beside a report; None when an earlier version made the report, or it is not whole."""
    manifest = store.lookup(ref.address)
    if not isinstance(manifest, Manifest) or FILE not in manifest.files:
        return None
    try:
        return Verdict.model_validate_json(store.read_file(ref.address, FILE))
    except (LostArtifactError, ValueError):
        return None


def verdict_of_run(run: RunFolder) -> Verdict | None:
    """The verdict of a run on the models that it has now; None without a report of them."""
    ref = run.find("report")
    verdict = verdict_of(run.store, ref) if ref else None
    if ref is None or verdict is None:
        return None
    manifest = run.store.lookup(ref.address)
    measured = set(references(manifest.arguments)) if isinstance(manifest, Manifest) else set()
    models = [run.find(model.role("predictions")) for model in run.models()]
    if any(found is not None and found.address not in measured for found in models):
        return None
    return verdict


def _parts(verdict: Verdict) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for point in verdict.points:
        yield point.question, point.answer, point.reasons
    if verdict.next_steps:
        yield "What to do next?", "", verdict.next_steps
