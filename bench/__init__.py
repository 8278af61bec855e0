"""Benchmarks beside stock TRL and transformers; each module says its command, and `bench.results` adds to RESULTS.md.

May import every other package. Nothing imports `bench`.
"""
