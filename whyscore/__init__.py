"""The command line, the topmost package: `whyscore.cli` lists the commands, `whyscore.commands` has them.

`whyscore --help` loads neither torch nor Prefect: a command imports what it needs in its body.
May import every other package but `bench`.
"""
