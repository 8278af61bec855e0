"""Vision-language models: references, loading, families, chat, adapters, and asking them in batches.

`generate` asks a model in this process, `engine` one behind a server.
May import data, config, store, device, openai_server and the rooms before them. It does not know a method.
"""
