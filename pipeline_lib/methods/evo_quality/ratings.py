"""Ratings of images: the mean of K sampled ones or the exact expectation, and the greedy one."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from PIL.Image import Image

from pipeline_lib.methods.evo_quality.answers import read_rating
from pipeline_lib.methods.evo_quality.inputs import Rater
from pipeline_lib.methods.evo_quality.tables import NEW_RATINGS, RATINGS
from pipeline_lib.progress import Progress
from pipeline_lib.tables.images import IMAGES

if TYPE_CHECKING:
    from pipeline_lib.vlm.batches import Record
    from pipeline_lib.vlm.generate import Generated
    from pipeline_lib.vlm.generate.likely import LikelyAnswers
    from pipeline_lib.vlm.load import Vlm


def rate(
    vlm: "Vlm",
    rater: Rater,
    images: pa.Table,
    open_image: Callable[[str, str], Image],
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
    drawn_by: Literal["image", "image_sha256"] = "image",
) -> pa.Table:
    """Ask for the sampled ratings and one greedy rating of every image, as `RATINGS`; `vlm` is the rater's model.

    The draws follow from the seed and a column of the table, `drawn_by`. An answer that cannot be read is kept as text,
    and left out of mean and spread.
    """
    from pipeline_lib.vlm.batches import ask_in_batches
    from pipeline_lib.vlm.chat import render_chat
    from pipeline_lib.vlm.generate import Greedy, Question, Sampled, generate_answers
    from pipeline_lib.vlm.generate.likely import likely_answers

    chat, beginnings = render_chat(vlm.processor, rater.prompt), [""] * rater.answers
    sampled = Sampled(max_new_tokens=rater.max_new_tokens, temperature=rater.temperature, seed=seed)
    greedy = Greedy(max_new_tokens=rater.max_new_tokens)

    def ask_exact(
        batch: list["Record"], pictures: list[list[Image]]
    ) -> list[tuple["LikelyAnswers", list["Generated"]]]:
        assert rater.exact is not None
        questions = [Question(chat, one) for one in pictures]
        likely = likely_answers(vlm, questions, sampled, least=rater.exact.least_probability)
        return list(zip(likely, generate_answers(vlm, questions, greedy).answers, strict=True))

    def ask(batch: list["Record"], pictures: list[list[Image]]) -> list[tuple[list["Generated"], list["Generated"]]]:
        asked = list(zip((record[drawn_by] for record in batch), pictures, strict=True))
        drawn = generate_answers(vlm, [Question(chat, one, beginnings, key=name) for name, one in asked], sampled)
        stated = generate_answers(vlm, [Question(chat, one) for _, one in asked], greedy)
        return list(zip(drawn.answers, stated.answers, strict=True))

    records = images.to_pylist()
    if rater.exact:
        expected = ask_in_batches(vlm.model, records, open_image, batch_size, ask_exact, progress)
        rows = [
            expectation(record, likely.texts, rater.exact.least_mass)
            | {"stated_answer": (said := stated[0].text.strip()), "stated": read_rating(said)}
            for record, (likely, stated) in zip(records, expected, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=RATINGS.schema)
    found = ask_in_batches(vlm.model, records, open_image, batch_size, ask, progress)
    rows = [
        rated(record, [one.text.strip() for one in drawn], stated[0].text.strip())
        for record, (drawn, stated) in zip(records, found, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=RATINGS.schema)


def rated(record: dict[str, Any], answers: list[str], stated: str) -> dict[str, Any]:
    """A row of `RATINGS` of an image (a row of `IMAGES`, with `score` and `group` where it has them)."""
    ratings = [rating for text in answers if (rating := read_rating(text)) is not None]
    return {
        **_of_image(record),
        "answers": answers,
        "ratings": ratings,
        "mean": fmean(ratings) if ratings else None,
        "spread": stdev(ratings) if len(ratings) > 1 else None,
        "stated_answer": stated,
        "stated": read_rating(stated),
    }


def expectation(record: dict[str, Any], answers: Sequence[tuple[str, float]], least_mass: float) -> dict[str, Any]:
    """A row of `RATINGS` of an image without its greedy rating, from texts and their probabilities.

    `mean` is the expectation over the texts that can be read, None when all texts together have less than `least_mass`
    or none can be read. `spread` is the standard deviation of that distribution.
    """
    read = [(rating, p) for text, p in answers if (rating := read_rating(text.strip())) is not None]
    covered, readable = math.fsum(p for _, p in answers), math.fsum(p for _, p in read)
    mean = spread = None
    if covered >= least_mass and readable:
        mean = math.fsum(rating * p for rating, p in read) / readable
        spread = math.sqrt(math.fsum((rating - mean) ** 2 * p for rating, p in read) / readable)
    return {
        **_of_image(record),
        "answers": [],
        "ratings": [],
        "mean": mean,
        "spread": spread,
        "covered": covered,
        "readable": readable / covered if covered else 0.0,
    }


def _of_image(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: record[name] for name in IMAGES.schema.names},
        "score": record.get("score"),
        "group": record.get("group", record["image"]),
    }


def to_rate(images: pa.Table) -> pa.Table:
    """The readable images of `NEW_IMAGES`, each content once, as `IMAGES` whose name is the path."""
    first: dict[str, dict[str, Any]] = {}
    for row in images.to_pylist():
        if row["problem"] is None:
            first.setdefault(row["image_sha256"], {**row, "image": row["path"]})
    rows = [{name: row[name] for name in IMAGES.schema.names} for row in first.values()]
    return pa.Table.from_pylist(rows, schema=IMAGES.schema)


def new_ratings(images: pa.Table, ratings: pa.Table) -> pa.Table:
    """A row of `NEW_RATINGS` for each image that was asked for, in order."""
    by_content = {row["image_sha256"]: row for row in ratings.to_pylist()}
    rows = []
    for image in images.to_pylist():
        found = by_content.get(image["image_sha256"]) if image["problem"] is None else None
        row: dict[str, Any] = dict.fromkeys(NEW_RATINGS.schema.names) | {"image": image["image"], "ratings": 0}
        row["problem"] = image["problem"]
        if found is not None:
            row |= {"rating": found["mean"], "ratings": len(found["ratings"])}
            row |= {name: found[name] for name in ("spread", "stated", "stated_answer")}
            if found["mean"] is None:
                row["problem"] = "none of the model's answers could be read as a rating of 1..5"
                if found["readable"]:
                    row["problem"] = (
                        f"the answers that were followed have a probability of {found['covered']:.2f} alone"
                    )
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=NEW_RATINGS.schema)
