"""Generation by a vLLM or SGLang server instead of transformers, and the checks that the server must pass.

May import the rooms that `pipeline_lib.vlm` may import.
"""
