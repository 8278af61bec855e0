"""Prefect flows: one a method, named like it; `controls` and `experiments`; `seeds`, `predict`, `rejudge`, and others.

A flow calls stages in the order of its paper's figure and computes nothing itself.
May import `pipeline_lib` and `tasks`.
"""
