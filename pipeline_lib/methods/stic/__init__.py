"""STIC: self-training on image comprehension (docs/methods/stic.md, arXiv 2405.19716).

Prompts, preference data from two ways of describing, infused instructions, answers and their figures, the report.
May import the shared rooms up to `report`, and no other method.
"""
