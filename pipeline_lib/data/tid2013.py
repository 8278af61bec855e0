"""TID2013: 25 photographs, each with 24 distortions at 5 levels, 3,000 images (Ponomarenko et al., 2015).

`mos_with_names.txt`, the mean opinion (0..9, higher is better) and a name a line, the names in mixed case:

    5.51429 I01_01_1.bmp
"""

import re

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.errors import DataError

_NAME = re.compile(r"i(\d+)_(\d+)_(\d+)\.\w+", re.IGNORECASE)


def read(table: str) -> pd.DataFrame:
    """One row a distorted image with its distortion (1..24) and level (1..5); its reference image is its group."""
    path = files.label_file(table, "mos_with_names.txt")
    rows = []
    for number, line in enumerate(files.read_lines(path), start=1):
        if not line:
            continue
        value, _, image = line.partition(" ")
        parts = _NAME.fullmatch(image.strip())
        try:
            score = float(value)
        except ValueError:
            parts = None
        if parts is None:
            raise DataError(f"{path}, line {number}: expected '<mos> I01_01_1.bmp', found {line[:80]!r}")
        reference, distortion, level = parts.groups()
        rows.append((image.strip(), score, f"I{reference}", int(distortion), int(level)))
    return pd.DataFrame(rows, columns=["image", "score", "group", "distortion", "level"])


def spelling(name: str) -> str:
    """Names are the same in any case: the list and the files on disk do not always agree."""
    return name.lower()
