"""Synthetic pairs (stage I): an answer and the same with injected errors; the majority and another answer."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict

from pipeline_lib.errors import RecipeError
from pipeline_lib.methods.self_judge.recipe import Pairs
from pipeline_lib.methods.self_judge.tables import SYNTHESIS
from pipeline_lib.metrics.intervals import wilson_estimate
from pipeline_lib.progress import Progress
from pipeline_lib.sampling import draw
from pipeline_lib.tables.metrics import METRICS

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.generate import Decoding, Generated
    from pipeline_lib.vlm.load import Vlm

FOLDER = Path(__file__).parent / "prompts"
_PLACEHOLDER = re.compile(r"\{(question|answer)\}")


class InjectPrompt(BaseModel):
    """How a model is asked to put errors into an answer: a text with {answer}, and {question} if it needs it."""

    model_config = ConfigDict(frozen=True)

    name: str
    text: str

    def key_fields(self) -> dict[str, Any]:
        """The text alone."""
        return {"text": self.text}

    def ask(self, question: str, answer: str) -> str:
        """The prompt for one answer; braces in it are plain text."""
        values = {"question": question, "answer": answer}
        return _PLACEHOLDER.sub(lambda found: values[found[1]], self.text)


def load_inject_prompt(name: str) -> InjectPrompt:
    """Read a shipped prompt by its name, or one of the user's own by its path ending in .txt (else `RecipeError`)."""
    path = Path(name) if name.endswith(".txt") else FOLDER / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise RecipeError(
            f"pairs.inject_prompt: there is no {name}; shipped are {known}, or give the path of a .txt file of your own"
        )
    text = path.read_text(encoding="utf-8").strip()
    if "{answer}" not in text:
        raise RecipeError(f"prompt {path}: the model would not see the answer; put {{answer}} into the text")
    return InjectPrompt(name=path.stem, text=text)


def draw_prompts(prompts: pa.Table, split: str, config: Pairs, purpose: str) -> pa.Table:
    """A share of the split's questions of each kind, at least one of each, in the table's order."""
    of_split = prompts.filter(pc.equal(prompts["split"], split))
    chosen: list[int] = []
    ids, kinds = of_split["prompt_id"].to_pylist(), of_split["kind"].to_pylist()
    for kind in sorted(set(kinds)):
        rows = [at for at, found in enumerate(kinds) if found == kind]
        rows.sort(key=lambda at: draw(purpose, ids[at]))
        share = config.closed_share if kind == "closed" and config.closed_share is not None else config.share
        chosen += rows[: max(1, round(share * len(rows)))]
    return of_split.take(pa.array(sorted(chosen), pa.int64()))


class Synthetic(NamedTuple):
    """A pair, or the reason why there is none (`SYNTHESIS`)."""

    status: str
    better: str | None = None
    worse: str | None = None
    votes: int | None = None


def open_pair(answer: str, changed: str, *, finished: bool, max_length_difference: float) -> Synthetic:
    """An answer against its rewriting with errors.

    There is no pair when one of the two was cut off (`finished`), when they are equal but for blanks, letter case and
    the last full stop, or when their lengths in characters differ by more than the share of the shorter one.
    """
    answer, changed = answer.strip(), changed.strip()
    if not finished or not answer or not changed:
        return Synthetic("unfinished", answer, changed)
    if normalized(answer) == normalized(changed):
        return Synthetic("equal", answer, changed)
    short, long = sorted((len(answer), len(changed)))
    if long > short * (1 + max_length_difference):
        return Synthetic("length", answer, changed)
    return Synthetic("pair", answer, changed)


def closed_pair(samples: Sequence[str], config: Pairs, known: str | None, name: str) -> Synthetic:
    """The majority of sampled short answers against another one, drawn with equal chances among the distinct others.

    Answers that differ only in blanks, letter case or a last full stop are one; the first of them stands for all. With
    `closed: known_answer` the preferred one is the sample that is the known answer, however many say it. `name` is the
    purpose of the draw.
    """
    written: dict[str, str] = {}
    for text in samples:
        if key := normalized(text):
            written.setdefault(key, text.strip())
    counts = Counter(key for text in samples if (key := normalized(text)))
    if not counts:
        return Synthetic("few_votes")
    if config.closed == "known_answer":
        better = normalized(known or "")
        if not known or better not in counts:
            return Synthetic("not_known")
    else:
        # Of answers with equally many votes none is the majority.
        (better, votes), *rest = counts.most_common(2)
        if votes < config.min_votes or (rest and rest[0][1] == votes):
            return Synthetic("few_votes", written[better], votes=votes)
    others = sorted(key for key in counts if key != better)
    if not others:
        return Synthetic("no_other", written[better], votes=counts[better])
    other = others[int(draw(f"{name}:other", better) * len(others))]
    return Synthetic("pair", written[better], written[other], counts[better])


def normalized(text: str) -> str:
    """The text for comparing: one blank between words, small letters, no full stop at the end."""
    return " ".join(text.split()).casefold().rstrip(".").strip()


def synthesize(
    vlm: "Vlm",
    prompts: pa.Table,
    open_image: Callable[[str, str], Image],
    config: Pairs,
    inject: InjectPrompt,
    *,
    batch_size: int,
    seed: int,
    iteration: int,
    progress: Progress,
) -> pa.Table:
    """One row of `SYNTHESIS` a question of `MULTIMODAL_PROMPTS`, in their order; `batch_size` counts answers."""
    from pipeline_lib.vlm.batches import ask_in_batches
    from pipeline_lib.vlm.generate import Greedy, Sampled

    limit, sampling = config.max_new_tokens, seed * 1000 + iteration
    plain: Decoding = Greedy(max_new_tokens=limit)
    if config.answer_temperature:
        plain = Sampled(max_new_tokens=limit, temperature=config.answer_temperature, seed=sampling)
    drawn = Sampled(max_new_tokens=limit, temperature=config.error_temperature, seed=sampling)
    voting = Sampled(max_new_tokens=limit, temperature=config.vote_temperature, seed=sampling)

    def answer_and_spoil(batch: "list[Record]", pictures: list[list[Image]]) -> list[Synthetic]:
        answers = _ask(vlm, batch, pictures, plain, [record["question"] for record in batch], 1)
        rewrite = [
            inject.ask(record["question"], found[0].text.strip()) for record, found in zip(batch, answers, strict=True)
        ]
        changed = _ask(vlm, batch, pictures, drawn, rewrite, 1, "errors:")
        return [
            open_pair(
                one.text,
                other.text,
                finished=one.finished and other.finished,
                max_length_difference=config.max_length_difference,
            )
            for (one,), (other,) in zip(answers, changed, strict=True)
        ]

    def vote(batch: "list[Record]", pictures: list[list[Image]]) -> list[Synthetic]:
        samples = _ask(vlm, batch, pictures, voting, [record["question"] for record in batch], config.votes)
        return [
            closed_pair(
                [answer.text for answer in answers if answer.finished],
                config,
                record["answer"],
                f"{seed}:{iteration}:{record['prompt_id']}",
            )
            for record, answers in zip(batch, samples, strict=True)
        ]

    records = prompts.to_pylist()
    found: dict[str, Synthetic] = {}
    for kind, make, size in (
        ("open", answer_and_spoil, batch_size),
        ("closed", vote, max(1, batch_size // config.votes)),
    ):
        of_kind = [record for record in records if record["kind"] == kind]
        made = ask_in_batches(vlm.model, of_kind, open_image, size, make, progress)
        found |= {record["prompt_id"]: pair for record, pair in zip(of_kind, made, strict=True)}
    rows = [_row(record, found[record["prompt_id"]]) for record in records]
    return pa.Table.from_pylist(rows, schema=SYNTHESIS.schema)


STATUSES = ("pair", "equal", "length", "unfinished", "few_votes", "no_other", "not_known")


def synthesis_metrics(synthesis: pa.Table, split: str) -> pa.Table:
    """Shares of the questions of each kind by status, and for closed pairs what is known of them, in `METRICS`.

    `label_known_right` is the share of pairs whose better answer is the known one, `label_known_wrong` that of pairs
    whose worse answer is; `better_is_longer` is the share of pairs whose better answer is the longer one.
    """
    rows: list[dict[str, Any]] = []

    def add(metric: str, hits: list[bool]) -> None:
        found = wilson_estimate(np.array(hits, dtype=bool), confidence=0.95)
        rows.append({"split": split, "metric": metric, **found._asdict()})

    for kind in ("open", "closed"):
        part = synthesis.filter(pc.equal(synthesis["kind"], kind)).to_pylist()
        for status in STATUSES:
            if any(row["status"] == status for row in part):
                add(f"{status}: {kind}", [row["status"] == status for row in part])
        made = [row for row in part if row["status"] == "pair"]
        add(f"better_is_longer: {kind}", [len(row["better"]) > len(row["worse"]) for row in made])
        known = [row for row in made if row["better_is_known"] is not None]
        if known:
            add(f"label_known_right: {kind}", [row["better_is_known"] for row in known])
            add(f"label_known_wrong: {kind}", [row["worse_is_known"] for row in known])
    return pa.Table.from_pylist(rows, schema=METRICS.schema)


def _row(record: "Record", pair: Synthetic) -> dict[str, Any]:
    known = record["answer"] if record["kind"] == "closed" else None
    names = ("image", "image_sha256", "width_px", "height_px", "group", "question", "kind")
    return {name: record[name] for name in names} | {
        "pair_id": record["prompt_id"],
        **pair._asdict(),
        "better_is_known": None
        if known is None or pair.better is None
        else normalized(pair.better) == normalized(known),
        "worse_is_known": None if known is None or pair.worse is None else normalized(pair.worse) == normalized(known),
    }


def _ask(
    vlm: "Vlm",
    records: "list[Record]",
    pictures: list[list[Image]],
    decoding: "Decoding",
    prompts: list[str],
    count: int,
    purpose: str = "",
) -> "list[list[Generated]]":
    """`count` answers of the model to a prompt about each record; `purpose` begins the keys of their noise."""
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.generate import Question, generate_answers

    questions = [
        Question(render_chat(vlm.processor, prompt), images, [""] * count, key=f"{purpose}{record['prompt_id']}")
        for record, images, prompt in zip(records, pictures, prompts, strict=True)
    ]
    return generate_answers(vlm, questions, decoding).answers
