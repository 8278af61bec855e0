"""What a stage costs that does next to nothing: `python -m bench.flow`.

A flow calls a stage that publishes one small table, a hundred times with other arguments; a second flow run finds all
of it in the store. Each with Prefect's temporary server on this machine, its task run, its log lines and its card in
the UI, and a folder as the store: everything that a stage costs beside its work.
"""

import os
import statistics
import tempfile
import time

from bench.results import add_rows
from whyscore.commands.terminal import prepare_prefect

STAGES = 100
HEADER = ["stage", "median, ms", "least to most, ms", "in the first flow run's first, ms"]


def main() -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        prepare_prefect()
        from prefect import flow

        from pipeline_lib.config.base import Runtime
        from pipeline_lib.tables.metrics import METRICS
        from tasks.stage import At, Work, stage
        from whyscore.ephemeral_server import tie_server_to_this_process

        @stage(version=1)
        def nothing(work: Work, number: int) -> None:
            """Publish an empty table."""
            work.write(METRICS, METRICS.schema.empty_table())

        @flow
        def many() -> list[float]:
            taken = []
            for number in range(STAGES):
                start = time.perf_counter()
                nothing(At(Runtime(store=f"{folder}/store"), f"number {number}"), number)
                taken.append(1000 * (time.perf_counter() - start))
            return taken

        tie_server_to_this_process()
        rows = []
        for what in ("computed", "cached"):
            first, *others = many()
            spread = f"{min(others):.0f} to {max(others):.0f}"
            rows.append([what, f"**{statistics.median(others):.0f}**", spread, f"{first:.0f}"])
    add_rows(f"What a stage costs beside its work, {STAGES} stages", HEADER, rows)
    for row in rows:
        print(" | ".join(row))


if __name__ == "__main__":
    main()
