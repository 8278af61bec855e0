"""Figures go to bench/RESULTS.md, each table with the date, machine, commit and command that it came from."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


def add_rows(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Append a table to RESULTS.md."""
    lines = [
        "",
        f"## {title}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, commit {_commit()},",
        f"`{_command()}`",
    ]
    lines += ["", *(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])]
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    load = os.getloadavg()[0]
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}, no GPU"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        " with changes" if git("status", "--porcelain") else ""
    )


def _command() -> str:
    name = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", name.name if name else sys.argv[0], *sys.argv[1:]])
