"""Stages as cached Prefect tasks, one a file; each is a thin adapter around `pipeline_lib`.

`stage` makes a function a stage, `common` has what the stages of several methods share, and each method has its folder.
May import `pipeline_lib`. A method's stages import no other method's.
"""
