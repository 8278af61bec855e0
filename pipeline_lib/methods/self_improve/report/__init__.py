"""The report of a run: results table, HTML page, figures, model card, and sentences that follow from the figures.

May import this method and `pipeline_lib.report`, which has the parts that every report uses.
"""
