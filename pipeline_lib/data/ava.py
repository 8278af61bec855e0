"""AVA: 255,530 photographs with the votes of DPChallenge's members (Murray et al., CVPR 2012).

`AVA.txt`, 15 integers a line: index, image id, how often each of the votes 1 to 10 was given, two semantic tags (0:
none), challenge:

    1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396
"""

import re

import numpy as np
import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.errors import DataError

COLUMNS = 15
NO_LISTS = (
    "AVA.txt says nothing of splits; set data.split_lists.test to the customary list"
    " aesthetics_image_lists/generic_test.jpgl (20,000 ids, everything else is training), or data.split_column: null to"
    " have the splits drawn. The lists of NIMA's split, which the paper used, were never published"
)
_LINE = re.compile(rf"\d+(\s+\d+){{{COLUMNS - 1}}}")


def read(table: str) -> pd.DataFrame:
    """One row an image, score the mean vote 1..10, with votes, their number and deviation, tags and challenge.

    Raises `DataError` naming the first line that is not of 15 whole numbers.
    """
    path = files.label_file(table, "AVA.txt")
    lines = files.read_lines(path)
    for number, line in enumerate(lines, start=1):
        if line and not _LINE.fullmatch(line):
            raise DataError(f"{path}, line {number}: expected {COLUMNS} whole numbers, found {_what(line)}")
    values = np.array(" ".join(lines).split(), dtype=np.int64).reshape(-1, COLUMNS)
    votes, value = values[:, 2:12], np.arange(1, 11)
    count = votes.sum(axis=1)
    with np.errstate(invalid="ignore"):  # an image without votes has no score, which the table's checks say
        mean = votes @ value / count
        deviation = np.sqrt(np.maximum(votes @ value**2 / count - mean**2, 0))
    image = pd.Series(values[:, 1]).astype(str) + ".jpg"
    return pd.DataFrame(
        {
            "image": image,
            "score": mean,
            "group": image,
            "votes": count,
            "score_sd": deviation,
            "tag_1": values[:, 12],
            "tag_2": values[:, 13],
            "challenge": values[:, 14],
            **{f"votes_{vote}": votes[:, vote - 1] for vote in value},
        }
    )


def _what(line: str) -> str:
    words = line.split()
    return f"{len(words)}" if all(word.isdigit() for word in words) else repr(line[:60])
