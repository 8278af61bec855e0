"""The stages of one iteration as cached Prefect tasks, one a file; each is a thin adapter around `pipeline_lib`."""
