"""SPAQ: 11,125 photographs of 66 smartphones, rated for quality and five attributes (Fang et al., CVPR 2020).

`MOS and Image attribute scores.xlsx` (or the same saved as CSV), all values 0..100; there is no official split:

    Image name,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness
    00001.jpg,23.67,44.83,42.67,34.83,26.33,21.33
"""

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.data.frames import read_frame, require_columns

FILE = "MOS and Image attribute scores"
ATTRIBUTES = ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")


def read(table: str) -> pd.DataFrame:
    """One row an image, score the MOS; any attribute can be the score by `data.score_column`."""
    path = files.label_file(table, f"{FILE}.xlsx", f"{FILE}.csv")
    rows = read_frame(path, ["Image name"])
    require_columns(path, rows, "Image name", "MOS", *ATTRIBUTES)
    known = pd.DataFrame({"image": rows["Image name"], "score": rows["MOS"], "group": rows["Image name"]})
    return pd.concat([known, rows.drop(columns=["Image name", "MOS"])], axis=1)
