"""The stages of stic, one a file, and what its flows share (`run`).

May import `pipeline_lib`, `tasks.stage` and `tasks.common`, and no other method's stages.
"""
