"""Stages of several methods, and what theirs share: `train` trains the adapter of a job and publishes it with its log.

May import `pipeline_lib` and `tasks.stage`.
"""
