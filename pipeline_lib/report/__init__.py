"""Parts of the reports of all methods: formatting, figure style, stage cards, tables of models side by side, seeds.

May import every room before it: judges, metrics, train, vlm, data and those below them. It does not know a method.
"""
