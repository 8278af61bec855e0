"""Print the pinned dependencies of pyproject.toml, so that they are installed before the code is copied."""

import tomllib

with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["dependencies"]))
