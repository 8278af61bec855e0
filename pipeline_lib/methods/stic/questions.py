"""Questions with reference answers, from tables as ScienceQA and TextVQA have them.

    {"image": "images/1.jpg", "question": "What colour is the boat?", "answer": "red", "choices": ["red", "blue"]}

The answer is a text, a list of equally right texts, or the number of the right choice. An image is a path, or bytes in
a Parquet file; a row without an image is one of text alone. Two further columns say what an image shows, where that is
known: `shows`, a list of names of things; `statements`, a list of topics with what is `right` and what is `wrong` to
say of the image: `[{"topic": "colour", "right": ["red"], "wrong": ["blue", "green"]}]`.
"""

import hashlib
import json
import math
import string
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_lib.data import files, user_table
from pipeline_lib.data.digests import image_digests
from pipeline_lib.data.embedded import EmbeddedImages
from pipeline_lib.data.images import refuse_too_many_unreadable, scan_images, unreadable
from pipeline_lib.data.sources import ImageSource, is_safe
from pipeline_lib.data.table import ImageList
from pipeline_lib.errors import DataError
from pipeline_lib.methods.stic.recipe import QuestionData
from pipeline_lib.methods.stic.tables import QUESTION_IMAGES, QUESTIONS
from pipeline_lib.sampling import draw
from pipeline_lib.store import ArtifactStore

KNOWN_COLUMNS = ("shows", "statements")

_SHOWN = 5


class QuestionList(NamedTuple):
    """Checked questions: columns row, image ('' in a row of text alone), question, answers, choices, group, and
    `KNOWN_COLUMNS`; and where the images come from."""

    rows: pd.DataFrame
    source: ImageSource

    @property
    def images(self) -> ImageList:
        """The images, each once, in the order of the rows."""
        names = [name for name in dict.fromkeys(self.rows["image"]) if name]
        return ImageList(pd.DataFrame({"image": names}), self.source)


def read_questions(data: QuestionData, seed: int) -> QuestionList:
    """Read and check the rows of a split; images are looked for, not opened.

    Raises `DataError` listing every problem: missing columns, no row of the split, empty questions, answers that are no
    text, a number that is no choice, paths outside the image folder.
    """
    images = data.image_data
    place = user_table.locate(images)
    frame = user_table.read_rows(images, place)
    if place.embedded:
        frame.loc[[not holds for holds in _hold_bytes(place.embedded)], data.image_column] = ""
    columns = [data.question_column, data.answer_column, data.choices_column, data.split_column, data.group_column]
    if absent := [name for name in columns if name and name not in frame]:
        raise DataError(
            f"{data.table}: no column {', '.join(absent)}; its columns are {', '.join(map(str, frame.columns))}"
        )
    frame.insert(0, "row", np.arange(len(frame)))
    if data.split_column:
        known = sorted(set(frame[data.split_column].map(str)))
        frame = frame[frame[data.split_column].map(str) == data.split]
        if frame.empty:
            raise DataError(f"{data.table}: no row has the split {data.split}; its splits are {', '.join(known)}")
    if data.rows is not None and data.rows < len(frame):
        draws = [draw(f"{seed}:questions", str(row)) for row in frame["row"]]
        frame = frame.iloc[np.sort(np.argsort(draws, kind="stable")[: data.rows])]
    if frame.empty:
        raise DataError(f"{data.table}: the table has no row")
    rows, problems = _checked_rows(frame, data)
    if problems:
        more = [f".. and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise DataError("\n  ".join([f"{data.table}: {len(problems)} problem(s)", *problems[:_SHOWN], *more]))
    return QuestionList(pd.DataFrame(rows), place.source())


def fingerprint(questions: QuestionList, store: ArtifactStore | None = None, *, keep: bool = True) -> str:
    """Sha256 over the rows and the content of every image file, for the key of the stage that reads the images."""
    digests = image_digests(questions.images.rows["image"], questions.source, store, keep=keep)
    rows = json.dumps(questions.rows.to_dict("records"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256((rows + ",".join(digests)).encode()).hexdigest()


class ReadQuestions(NamedTuple):
    """`QUESTIONS` of the rows whose image can be read, those images, each once, and `UNREADABLE_IMAGES`."""

    questions: pa.Table
    images: pa.Table
    unreadable: pa.Table


def read_images(found: QuestionList, data: QuestionData) -> ReadQuestions:
    """Read every image once; questions about an unreadable one are left out.

    Raises `DataError` when more images are unreadable than `data.max_unreadable_fraction` allows, or no row is left.
    """
    facts = scan_images(found.images, data.max_megapixels)
    problems = unreadable(found.images, facts)
    refuse_too_many_unreadable(problems, len(facts), data.max_unreadable_fraction)
    images = {
        name: {"image": name, "image_sha256": fact.sha256, "width_px": fact.width_px, "height_px": fact.height_px}
        for name, fact in zip(found.images.rows["image"], facts, strict=True)
        if not fact.problem
    }
    rows = [
        {**row, "images": [images[row["image"]]] if row["image"] else []}
        for row in found.rows.to_dict("records")
        if not row["image"] or row["image"] in images
    ]
    if not rows:
        raise DataError(f"{data.table}: no question is left without the {problems.num_rows} unreadable images")
    rows = [{name: row[name] for name in QUESTIONS.schema.names} for row in rows]
    return ReadQuestions(
        pa.Table.from_pylist(rows, schema=QUESTIONS.schema),
        pa.Table.from_pylist(list(images.values()), schema=QUESTION_IMAGES.schema),
        problems,
    )


def _hold_bytes(embedded: EmbeddedImages) -> list[bool]:
    """For each row of Parquet files whether its image column holds a file."""

    def look(source: Any) -> list[bool]:
        found: list[bool] = []
        for batch in pq.ParquetFile(source).iter_batches(256, columns=[embedded.column]):
            column = batch.column(0)
            content = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
            found += pc.is_valid(content).to_pylist()
        return found

    return [holds for path in embedded.files for holds in files.with_file(path, look)]


def _checked_rows(frame: pd.DataFrame, data: QuestionData) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for record in frame.to_dict("records"):
        at, image = int(record["row"]), _text(record.get(data.image_column))
        where = f"row {at + 1}"
        question, choices = _text(record[data.question_column]), _texts(record.get(data.choices_column or ""))
        if not question:
            problems.append(f"{where}: the question is empty")
        if image and not is_safe(image):
            problems.append(f"{where}: {image} is not inside the image folder; write it relative to `images`")
        answers = _answers(record[data.answer_column], choices, letters=data.list_choices)
        if isinstance(answers, str):
            problems.append(f"{where}: {answers}")
            answers = []
        if data.list_choices:
            if not 2 <= len(choices) <= len(string.ascii_uppercase):
                problems.append(f"{where}: list_choices needs 2 to 26 choices, found {len(choices)}")
            listed = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
            question = "\n".join([question, *listed])
        rows.append(
            {
                "row": at,
                "image": image,
                "question": f"{question}\n{data.instruction}" if data.instruction else question,
                "answers": answers,
                "choices": choices,
                "group": _text(record[data.group_column]) if data.group_column else image or f"row {at}",
                "shows": None if _is_absent(shows := record.get("shows")) else _texts(shows),
                "statements": _statements(record.get("statements"), where, problems),
            }
        )
    return rows, problems


def _answers(value: Any, choices: list[str], *, letters: bool) -> list[str] | str:
    """The reference answers; a sentence on what is wrong with them if there are none."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and choices:
        if not 0 <= value < len(choices):
            return f"the answer {value} is the number of no choice (there are {len(choices)}, counted from 0)"
        return [string.ascii_uppercase[value] if letters else choices[value]]
    found = _texts(value) if isinstance(value, list | tuple | np.ndarray) else [_text(value)]
    found = [text for text in found if text]
    if not found:
        return "the answer is empty"
    if not letters:
        return found
    places = [choices.index(text) for text in found if text in choices]
    if not places:
        return f"the answer {found[0]!r} is none of the choices {', '.join(choices)}"
    return [string.ascii_uppercase[place] for place in places]


def _statements(value: Any, where: str, problems: list[str]) -> list[dict[str, Any]] | None:
    if _is_absent(value):
        return None
    try:
        return [
            {"topic": str(topic["topic"]), "right": _texts(topic["right"]), "wrong": _texts(topic["wrong"])}
            for topic in value
        ]
    except (TypeError, KeyError):
        problems.append(f"{where}: statements must be a list of topics, each with topic, right and wrong")
        return None


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    return "" if _is_absent(value) else str(value).strip()


def _texts(value: Any) -> list[str]:
    if _is_absent(value) or not isinstance(value, Iterable) or isinstance(value, str):
        return []
    return [str(item).strip() for item in value]
