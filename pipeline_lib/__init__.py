"""WhyScore's library: plain Python that never imports Prefect, and loads nothing heavy until it is used.

A room is a package or module in here. A room may import the rooms before it in this order, which
`tests/unit/test_layout.py` checks: errors, addresses, progress, sampling, tables, store, config, device, openai_server,
data, vlm, train, metrics, judges, report, methods, use, demo, checks, testing.
"""
