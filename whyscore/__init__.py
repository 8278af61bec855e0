"""The public face, the topmost package: `from whyscore import Scorer`, and the command line.

`whyscore.cli` lists the commands, `whyscore.commands` has them. `import whyscore` and `whyscore --help` load neither
torch nor Prefect: a name is imported when it is asked for, a command imports what it needs in its body.
May import every other package but `bench`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_lib.use.scorer import ScoredImage, Scorer

__all__ = ["ScoredImage", "Scorer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline_lib.use import scorer

    return getattr(scorer, name)
