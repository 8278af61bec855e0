"""How WhyScore runs on a Prefect server: the deployed flows, their registration, and the stack as plain processes.

May import `pipeline_lib`, `tasks` and `flows`. Only `whyscore` imports it.
"""
