"""AADB: 9,958 photographs with a score and eleven attributes by five raters each (Kong et al., ECCV 2016).

A folder of files like `imgListTrainRegression_score.txt`, a name and a value a line; scores are 0..1:

    farm1_333_19438364933_087c8abc60_b.jpg 0.3

The attributes have files of the same shape (`imgListTrainRegression_DoF.txt`); "Balacing" is spelled so there.
"""

import re

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.errors import DataError

# There are older imgListTestRegression files too, of a test set with unfit images; they must not be mixed in.
PARTS = {"train": "Train", "val": "Validation", "test": "TestNew"}
ATTRIBUTES = (
    "BalacingElements",
    "ColorHarmony",
    "Content",
    "DoF",
    "Light",
    "MotionBlur",
    "Object",
    "Repetition",
    "RuleOfThirds",
    "Symmetry",
    "VividColor",
)


def read(table: str) -> pd.DataFrame:
    """One row an image with its official split and all attributes in the folder; an image may lack attributes.

    `table` is the folder of the files, or one of them. Raises `DataError` when a score file is missing, a line is not a
    name and a number, an image is in two of the sets, or an attribute is missing for some of the sets.
    """
    folder = table if files.is_folder(table) else files.parent(table)
    there = set(files.list_folder(folder))
    wanted = {split: f"imgList{part}Regression_score.txt" for split, part in PARTS.items()}
    if absent := [name for name in wanted.values() if name not in there]:
        raise DataError(f"{folder}: expected {', '.join(wanted.values())} in it, {', '.join(absent)} not found")
    scores = {split: _values(files.join(folder, name)) for split, name in wanted.items()}
    _refuse_overlap(folder, scores)
    rows = pd.concat([part.rename("score").to_frame().assign(split=split) for split, part in scores.items()])
    rows = rows.rename_axis("image").reset_index()
    rows["group"] = rows["image"]
    for attribute in ATTRIBUTES:
        names = [f"imgList{part}Regression_{attribute}.txt" for part in PARTS.values()]
        found = [name for name in names if name in there]
        if len(found) not in {0, len(names)}:
            raise DataError(f"{folder}: {attribute} needs {', '.join(names)}; found only {', '.join(found)}")
        if found:
            values = pd.concat([_values(files.join(folder, name)) for name in names])
            if not values.index.is_unique:
                again = values.index[values.index.duplicated()][0]
                raise DataError(f"{folder}: {attribute} of {again} is given more than once")
            rows[attribute] = rows["image"].map(values)
    return rows


def spelling(name: str) -> str:
    """The name without the score in front of it, as in the 256-pixel folder: `0.500_farm1_..jpg` is `farm1_..jpg`."""
    return re.sub(r"^\d\.\d+_", "", name)


def _values(path: str) -> pd.Series:
    names, values = [], []
    for number, line in enumerate(files.read_lines(path), start=1):
        if not line:
            continue
        try:
            name, value = line.split()
            values.append(float(value))
        except ValueError:
            raise DataError(f"{path}, line {number}: expected a name and a number, found {line[:80]!r}") from None
        names.append(spelling(name))
    return pd.Series(values, index=names, dtype=float)


def _refuse_overlap(folder: str, scores: dict[str, pd.Series]) -> None:
    for one, other in (("val", "test"), ("train", "test"), ("train", "val")):
        both = scores[one].index.intersection(scores[other].index)
        if len(both):
            raise DataError(
                f"{folder}: {len(both)} image(s) are in both {PARTS[one]} and {PARTS[other]}, e.g. {both[0]}; was one"
                " of the files replaced by the older Test list?"
            )
