"""The commands, a file a theme: checks, runs, models, stores, platform.

May import every package but `bench`, but only inside the body of a command.
"""
