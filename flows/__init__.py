"""Prefect flows: one a method, named like it, and `predict`, `rejudge` and `watch_base_model`.

A flow calls stages in the order of its paper's figure and computes nothing itself.
May import `pipeline_lib` and `tasks`.
"""
