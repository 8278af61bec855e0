"""KADID-10k: 81 photographs, each with 25 distortions at 5 levels, 10,125 images (Lin et al., 2019).

`dmos.csv`; despite its name, a higher dmos (1..5) is better:

    dist_img,ref_img,dmos,var
    I01_01_01.png,I01.png,4.57,0.496
"""

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.data.frames import read_frame, require_columns


def read(table: str) -> pd.DataFrame:
    """One row a distorted image; its reference is its group, so that no reference is in two splits.

    `var` is kept and not used: sources disagree on whether it is a variance.
    """
    path = files.label_file(table, "dmos.csv")
    rows = require_columns(path, read_frame(path, ["dist_img", "ref_img"]), "dist_img", "ref_img", "dmos")
    known = pd.DataFrame({"image": rows["dist_img"], "score": rows["dmos"], "group": rows["ref_img"]})
    return pd.concat([known, rows.drop(columns=["dist_img", "dmos"])], axis=1)
