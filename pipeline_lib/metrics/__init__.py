"""Figures from arrays and tables alone; no model is asked here.

`figures` and `score_agreement` compare predicted with true scores, `agreement` compares two judges, `readings` and
`scores` turn digit distributions into scores, `intervals` and `uncertainty` say how sure figures and predictions are,
and `chance` says what Cons would be by chance.
May import every room before it: train, vlm, data and those below them.
"""
