"""Tiny checkpoints of every model family, and real servers for tests: a judge, a generation engine, S3.

The tests, the benchmarks and `make up MEMORY_S3=..` share them.
May import every other room of `pipeline_lib`.
"""
