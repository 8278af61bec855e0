"""The stages of self_improve, one a file, and what its flows share (`run`, `measure`).

May import `pipeline_lib`, `tasks.stage` and `tasks.common`, and no other method's stages.
"""
