"""Makes a function a stage: key, artifact, cached Prefect task, shards, GPU pool, cards in the UI, plan.

May import `pipeline_lib` alone.
"""

from tasks.stage.decorator import At, Stage, Work, stage, with_whole_inputs

__all__ = ["At", "Stage", "Work", "stage", "with_whole_inputs"]
