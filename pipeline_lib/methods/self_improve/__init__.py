"""Iterative self-improvement of a VLM for image scoring and self-explanation (docs/methods/self_improve.md).

Score pairs, swap, consistency pairs, merging, evaluation, the round-trip judge, the rubric and its verdicts.
May import the shared rooms up to `report`, and no other method.
"""
