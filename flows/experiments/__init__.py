"""Flows that compare: `ablation`, `grid_search` and `merge_ablation`. Each ends in a table and a page.

May import `pipeline_lib`, `tasks` and the method's own flow.
"""
