"""Read images with questions: one row a question, so an image may stand in several rows.

    {"image": "images/1.jpg", "split": "train", "question": "What colour is the boat?", "answer": "red"}

`answer` is optional and only measured with. Open questions come from rows whose kind is open, or from `open_prompts`.
"""

import hashlib
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from pipeline_lib.config.base import SPLITS, ImageData, Split
from pipeline_lib.data import user_table
from pipeline_lib.data.digests import image_digests
from pipeline_lib.data.sources import is_safe
from pipeline_lib.data.splits import draw_splits, split_name
from pipeline_lib.data.table import ImageList, too_few_images
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_judge.recipe import PromptData
from pipeline_lib.methods.self_judge.tables import MULTIMODAL_PROMPTS
from pipeline_lib.sampling import draw
from pipeline_lib.store import ArtifactStore

LEAST: dict[Split, int] = {"train": 1, "val": 1}
"""Held-out synthetic pairs are made from the validation images."""

_SHOWN = 5


class PromptList(NamedTuple):
    """Checked questions (columns image, split, group, kind, question, answer), and the images, each once."""

    rows: pd.DataFrame
    images: ImageList


def read_prompts(data: PromptData, seed: int) -> PromptList:
    """Read and check a table of images with questions; images are looked for, not opened.

    Raises `DataError` listing every problem: missing columns, unsafe paths, unknown splits or kinds, an image or a
    group in two splits, no question at all, no training or validation image.
    """
    if data.dataset != "table":
        raise DataError(f"data.dataset {data.dataset}: self_judge reads images with questions; use dataset: table")
    if any(getattr(data.split_lists, split) for split in SPLITS):
        raise DataError("data.split_lists: self_judge takes the splits from data.split_column, or draws them")
    place = user_table.locate(data)
    frame = user_table.read_rows(data, place)
    wanted = [data.image_column, data.kind_column, data.answer_column, data.group_column]
    if place.kind != "images":
        wanted += [data.question_column, data.split_column]
    if absent := [name for name in wanted if name and name not in frame]:
        raise DataError(
            f"{data.table}: no column {', '.join(absent)}; its columns are {', '.join(map(str, frame.columns))}; set"
            " the names in data, null for one that is not there"
        )
    rows = pd.DataFrame({"image": _text(frame[data.image_column])})
    rows["group"] = _text(frame[data.group_column]) if data.group_column else rows["image"]
    rows["question"] = _column(frame, data.question_column)
    rows["answer"] = _column(frame, data.answer_column)
    rows["kind"] = _column(frame, data.kind_column).str.lower() if data.kind_column else "closed"
    problems: list[str] = []
    _note(
        problems, "image path(s) are empty or not inside the image folder", rows["image"][~rows["image"].map(is_safe)]
    )
    unknown = rows.loc[(rows["question"] != "") & ~rows["kind"].isin(("open", "closed")), "kind"]
    _note(problems, f"kind(s) in column {data.kind_column} are not open or closed", unknown.unique())
    if data.split_column and data.split_column in frame:
        rows["split"] = frame[data.split_column].map(split_name)
        _note(
            problems,
            f"split(s) are not one of {', '.join(SPLITS)}",
            rows["split"][~rows["split"].isin(SPLITS)].unique(),
        )
    else:
        once = rows.drop_duplicates("image")
        drawn = draw_splits(once["group"], data.val_fraction, data.test_fraction, seed)
        rows["split"] = rows["image"].map(dict(zip(once["image"], drawn, strict=True)))
    for name in ("image", "group"):
        splits = rows.groupby(name)["split"].nunique()
        _note(problems, f"{name}(s) are in more than one split", splits.index[splits > 1])
    images = rows.drop_duplicates("image")[["image", "split", "group"]].reset_index(drop=True)
    problems += too_few_images(images["split"], LEAST)
    asked = rows[rows["question"] != ""]
    if asked.empty and not data.open_prompts:
        problems.append("there is no question: name data.question_column, or give data.open_prompts")
    if problems:
        raise DataError("\n  ".join([f"{data.table}: {len(problems)} problem(s)", *problems]))
    order = ["image", "split", "group", "kind", "question", "answer"]
    more = images.assign(kind="open", question=[_open(data, seed, name) for name in images["image"]], answer="")
    both = [asked[order], more[order]] if data.open_prompts else [asked[order]]
    return PromptList(pd.concat(both, ignore_index=True), ImageList(images, place.source()))


def fingerprint(prompts: PromptList, store: ArtifactStore | None = None, *, keep: bool = True) -> str:
    """Sha256 over the questions and the content of every image file, for the key of the stage that reads the images."""
    digests = image_digests(prompts.images.rows["image"], prompts.images.source, store, keep=keep)
    return hashlib.sha256((prompts.rows.to_csv(index=False) + ",".join(digests)).encode()).hexdigest()


def prompts_table(prompts: PromptList, images: pa.Table) -> pa.Table:
    """`MULTIMODAL_PROMPTS` of the images that could be read."""
    facts = {row["image"]: row for row in images.select(["image", "image_sha256", "width_px", "height_px"]).to_pylist()}
    counted: dict[tuple[str, str], int] = {}
    rows = []
    for row in prompts.rows.to_dict("records"):
        number = counted[row["image"], row["kind"]] = counted.get((row["image"], row["kind"]), -1) + 1
        if row["image"] in facts:
            name = f"{row['image']}:{row['kind']}:{number}"
            rows.append(row | facts[row["image"]] | {"prompt_id": name, "answer": row["answer"] or None})
    return pa.Table.from_pylist(rows, schema=MULTIMODAL_PROMPTS.schema)


def _open(data: ImageData, seed: int, image: str) -> str:
    assert isinstance(data, PromptData)
    prompts = data.open_prompts
    return prompts[int(draw(f"{seed}:open_prompt", image) * len(prompts))] if prompts else ""


def _column(frame: pd.DataFrame, name: str | None) -> pd.Series:
    return _text(frame[name]) if name and name in frame else pd.Series("", index=frame.index)


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").map(str).str.strip()


def _note(problems: list[str], what: str, found: object) -> None:
    items = [str(item) for item in found]  # type: ignore[attr-defined]
    if items:
        more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
        problems.append(f"{len(items)} {what}: {', '.join(items[:_SHOWN])}{more}")
