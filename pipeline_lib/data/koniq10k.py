"""KonIQ-10k: 10,073 photographs with the quality votes of a crowd (Hosu et al., 2020).

There are two label files, and `MOS` is on another scale in each. `koniq10k_distributions_sets.csv`, MOS about 0..100:

    image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set
    10004473376.jpg,0.0,0.0,0.238095238095,0.695238095238,0.0666666666667,105,77.3836206897,0.527277894494,training

`koniq10k_scores_and_distributions.csv`, MOS 1..5, with the other scale as `MOS_zscore` and without sets.

c1 to c5 say how often each of the votes 1 to 5 was given, as shares or as counts.
"""

import pandas as pd

from pipeline_lib.data import files
from pipeline_lib.data.frames import read_frame, require_columns

SETS, SCORES = "koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv"
VOTE_VALUES = {vote: round(-29.229 + 27.817 * vote, 2) for vote in range(1, 6)}
"""Each vote on the scale 0..100: the least-squares line of MOS over the mean vote of all 10,073 images (r .995)."""


def read(table: str) -> pd.DataFrame:
    """One row an image, score about 0..100 from either file, the official set as split if the file has it.

    The votes are `votes_<value>`, where the value is the vote's on the scale of the score (`VOTE_VALUES`).
    All columns of the file are kept as they are, so `data.score_column: MOS` is the file's own MOS.
    """
    path = files.label_file(table, SETS, SCORES)
    rows = require_columns(path, read_frame(path, ["image_name"]), "image_name", "MOS")
    five_point = pd.to_numeric(rows["MOS"], errors="coerce").between(1, 5).mean() > 0.5  # which file it is, by range
    score = "MOS_zscore" if five_point and "MOS_zscore" in rows else "MOS"
    known = {"image": rows["image_name"], "score": rows[score]}
    if "set" in rows:
        known["split"] = rows["set"]
    known["group"] = rows["image_name"]
    for vote, value in VOTE_VALUES.items():
        if f"c{vote}" in rows:
            on_scale = vote if five_point and score == "MOS" else value
            known[f"votes_{on_scale}"] = pd.to_numeric(rows[f"c{vote}"], errors="coerce")
    return pd.concat([pd.DataFrame(known), rows.drop(columns=["image_name", "set"], errors="ignore")], axis=1)
