"""Stages of the method self_judge.

May import `pipeline_lib`, `tasks.stage` and `tasks.common`.
"""
