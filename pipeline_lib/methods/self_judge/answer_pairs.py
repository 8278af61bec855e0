"""Pairs of answers with a known preference: tables of one's own, VL-RewardBench, Multimodal RewardBench.

A table of one's own:

    {"image": "1.jpg", "question": "Where is it?", "answer_a": "left", "answer_b": "right", "better": "A"}

VL-RewardBench (arXiv 2411.17451), as JSON lines with `image_path`, or as Parquet with the image inside:

    {"id": "RLAIF-V-14", "image_path": "images/rlaif-v/RLAIF-V-14.jpg", "query": "..", "response": ["..", ".."],
     "human_ranking": [0, 1], "query_source": "COCO"}

`human_ranking` holds the rank of each response, 0 is the better one. The dimension is the group of the published
evaluation: general, hallucination or reasoning, from the folder of the image, or else from the id and the source.

Multimodal RewardBench (arXiv 2502.14191), its `all_data.json`:

    {"ID": "math-1", "Image": "math/1.jpg", "Text": "..", "Output1": "..", "Output2": "..", "Better": "Output1",
     "Category": "reasoning"}

Safety and reasoning are divided as in the published evaluation, by the beginning of the ID.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline_lib.config.base import ImageData
from pipeline_lib.data import files, user_table
from pipeline_lib.data.digests import image_digests
from pipeline_lib.data.sources import folder_source, is_safe
from pipeline_lib.data.table import ImageList
from pipeline_lib.errors import DataError
from pipeline_lib.methods.self_judge.recipe import JudgedPairs
from pipeline_lib.methods.self_judge.tables import ANSWER_PAIRS
from pipeline_lib.sampling import draw
from pipeline_lib.store import ArtifactStore

_SHOWN = 5


class KnownPair(NamedTuple):
    """One row of any of the formats."""

    image: str
    pair_id: str
    group: str
    question: str
    dimension: str
    better: str
    worse: str


class PairList(NamedTuple):
    """Checked pairs (columns of `KnownPair`), and their images, each once."""

    rows: pd.DataFrame
    images: ImageList


def image_data(data: JudgedPairs) -> ImageData:
    """Where the images of a table of pairs are."""
    column = {"pairs": "image", "vl_rewardbench": "image", "multimodal_rewardbench": "Image"}[data.format]
    return ImageData(
        table=data.table, images=data.images, image_column=column, split_column=None, max_megapixels=data.max_megapixels
    )


def read_pairs(data: JudgedPairs, seed: int) -> PairList:
    """Read and check a table of pairs; images are looked for, not opened.

    Raises `DataError` listing what is wrong: missing columns, empty or equal answers, a preference that names neither,
    paths outside the image folder. `data.rows` draws by the pairs' names.
    """
    where = image_data(data)
    if files.ending(data.table) == ".json":
        frame, source = _json(data.table), folder_source(user_table.image_folder(where))
    else:
        place = user_table.locate(where)
        frame, source = user_table.read_rows(where, place), place.source()
    needed, read = _READERS[data.format]
    if absent := [name for name in needed if name not in frame]:
        raise DataError(
            f"{data.table}: a table of format {data.format} needs the column(s) {', '.join(absent)}; its columns are"
            f" {', '.join(map(str, frame.columns))}"
        )
    found: list[KnownPair] = []
    problems: list[str] = []
    for at, record in enumerate(frame.to_dict("records")):
        # A cell without a value is NaN in a frame, which is a text or a list in none of the formats.
        there = {name: "" if isinstance(value, float) and np.isnan(value) else value for name, value in record.items()}
        pair = read(there, at)
        problem = pair if isinstance(pair, str) else _problem(pair)
        if problem:
            problems.append(f"row {at + 1}: {problem}")
        elif isinstance(pair, KnownPair):
            found.append(pair)
    if problems:
        more = [f".. and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise DataError("\n  ".join([f"{data.table}: {len(problems)} problem(s)", *problems[:_SHOWN], *more]))
    if not found:
        raise DataError(f"{data.table}: the table has no row")
    if data.rows is not None and data.rows < len(found):
        drawn = sorted(range(len(found)), key=lambda at: draw(f"{seed}:pairs", found[at].pair_id))[: data.rows]
        found = [found[at] for at in sorted(drawn)]
    rows = pd.DataFrame(found)
    images = rows.drop_duplicates("image")[["image"]].assign(split="test").reset_index(drop=True)
    images["group"] = images["image"]
    return PairList(rows, ImageList(images, source))


def fingerprint(pairs: PairList, store: ArtifactStore | None = None, *, keep: bool = True) -> str:
    """Sha256 over the pairs and the content of every image file, for the key of the stage that reads the images."""
    digests = image_digests(pairs.images.rows["image"], pairs.images.source, store, keep=keep)
    return hashlib.sha256((pairs.rows.to_csv(index=False) + ",".join(digests)).encode()).hexdigest()


def pairs_table(pairs: PairList, images: pa.Table) -> pa.Table:
    """`ANSWER_PAIRS` of the images that could be read."""
    facts = {row["image"]: row for row in images.select(["image", "image_sha256", "width_px", "height_px"]).to_pylist()}
    rows = [row | facts[row["image"]] for row in pairs.rows.to_dict("records") if row["image"] in facts]
    return pa.Table.from_pylist(rows, schema=ANSWER_PAIRS.schema)


def _own(record: Mapping[str, Any], at: int) -> KnownPair | str:
    better = str(record["better"]).strip().upper()
    if better not in ("A", "B"):
        return f"better is {record['better']!r}, expected A or B"
    answers = {"A": str(record["answer_a"]), "B": str(record["answer_b"])}
    image = str(record["image"])
    return KnownPair(
        image,
        f"{image}:{at}",
        str(record.get("group") or image),
        str(record["question"]),
        str(record.get("dimension") or "all"),
        answers[better],
        answers["B" if better == "A" else "A"],
    )


_VL_GROUPS = {
    "vlfeedback": "general",
    "wildvision-battle": "general",
    "povid": "hallucination",
    "rlhf-v": "hallucination",
    "rlaif-v": "hallucination",
    "reasoning_tasks": "reasoning",
}
_VL_BEGINNINGS = {
    "rlaif-v": "hallucination",
    "rlhf-v": "hallucination",
    "povid": "hallucination",
    "mmmu": "reasoning",
    "mathverse": "reasoning",
    "wildvision": "general",
}


def _vl_rewardbench(record: Mapping[str, Any], at: int) -> KnownPair | str:
    response, ranking = (list(record[name]) for name in ("response", "human_ranking"))
    if len(response) != 2 or sorted(map(int, ranking)) != [0, 1]:
        return f"expected two responses and the ranks 0 and 1, found {len(response)} and {ranking}"
    path = record.get("image_path")
    image = str(path) if isinstance(path, str) and path else str(record.get("image") or "")
    first_is_better = int(ranking[0]) == 0
    better, worse = response if first_is_better else reversed(response)
    dimension = _vl_dimension(image, str(record["id"]), str(record.get("query_source") or ""))
    # One image may have several pairs of one id.
    return KnownPair(image, f"{record['id']}:{at}", image, str(record["query"]), dimension, str(better), str(worse))


def _vl_dimension(image: str, name: str, source: str) -> str:
    folders = [part.lower() for part in image.split("/")]
    named = [group for folder, group in _VL_GROUPS.items() if folder in folders]
    for text in (name.lower(), source.lower()):
        named += [group for beginning, group in _VL_BEGINNINGS.items() if text.startswith(beginning)]
    return [*named, "general"][0]


def _multimodal_rewardbench(record: Mapping[str, Any], at: int) -> KnownPair | str:
    better = str(record["Better"])
    if better not in ("Output1", "Output2"):
        return f"Better is {better!r}, expected Output1 or Output2"
    category, name, image = str(record["Category"]), str(record["ID"]), str(record["Image"])
    if category == "safety":
        category = "safety/bias" if name.lower().startswith("pairs") else "safety/toxicity"
    elif category == "reasoning":
        category = "reasoning/math" if name.lower().startswith("math") else "reasoning/coding"
    worse = "Output2" if better == "Output1" else "Output1"
    return KnownPair(
        image, f"{name}:{at}", image, str(record["Text"]), category, str(record[better]), str(record[worse])
    )


_READERS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any], int], KnownPair | str]]] = {
    "pairs": (("image", "question", "answer_a", "answer_b", "better"), _own),
    "vl_rewardbench": (("id", "query", "response", "human_ranking"), _vl_rewardbench),
    "multimodal_rewardbench": (
        ("ID", "Image", "Text", "Output1", "Output2", "Better", "Category"),
        _multimodal_rewardbench,
    ),
}


def _problem(pair: KnownPair) -> str | None:
    if not pair.image or not is_safe(pair.image):
        return f"image {pair.image!r} is empty or not inside the image folder"
    if not pair.question.strip() or not pair.better.strip() or not pair.worse.strip():
        return "the question or an answer is empty"
    if pair.better == pair.worse:
        return "the two answers are equal"
    return None


def _json(path: str) -> pd.DataFrame:
    try:
        return pd.DataFrame(json.loads(files.read_file(path).decode("utf-8-sig")))
    except ValueError as error:
        raise DataError(f"{path} cannot be read as a JSON list of rows: {error}") from error
