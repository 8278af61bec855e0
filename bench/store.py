"""What a store costs: a folder beside a real S3 server on the same machine: `python -m bench.store`."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.results import add_rows
from pipeline_lib.store import ArtifactStore
from pipeline_lib.testing.s3_server import USERS, Ceph, how_to_install, missing_packages
from tests.s3.conftest import RealS3, new_bucket

REPEATS, LARGE_BYTES = 30, 200_000_000


def seconds(call: Callable[[int], object], repeats: int) -> float:
    """The median time of a call, which gets its number."""
    times = []
    for n in range(repeats):
        start = time.perf_counter()
        call(n)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(store: ArtifactStore, scratch: Path) -> dict[str, str]:
    """Medians in words."""

    def publish(n: int) -> None:
        with store.attempt() as attempt:
            (attempt.folder / "table.parquet").write_bytes(os.urandom(50_000))
            store.publish(f"steps/generate/{n:04d}", attempt, {})

    large, back = scratch / "large.bin", scratch / "back.bin"
    large.write_bytes(os.urandom(LARGE_BYTES))
    written = {"publish one file of 50 kB": seconds(publish, REPEATS)}
    written["lookup, a hit"] = seconds(lambda n: store.lookup(f"steps/generate/{n:04d}"), REPEATS)
    written["lookup, a miss"] = seconds(lambda n: store.lookup(f"steps/generate/x{n:04d}"), REPEATS)
    found = {what: f"{1000 * taken:.1f} ms" for what, taken in written.items()}
    put = seconds(lambda n: store.files.put(store.path(f"large/{n}"), large), 3)
    get = seconds(lambda n: store.files.get(store.path(f"large/{n}"), back), 3)
    return found | {
        "put 200 MB": f"{LARGE_BYTES / 1e6 / put:.0f} MB/s",
        "get 200 MB": f"{LARGE_BYTES / 1e6 / get:.0f} MB/s",
    }


def main() -> None:
    """The command line; the S3 server is the one of the tests, and needs its packages."""
    if packages := missing_packages():
        raise SystemExit(how_to_install(packages))
    ceph = Ceph()
    try:
        ceph.start()
        with tempfile.TemporaryDirectory() as folder:
            local = measure(ArtifactStore(f"{folder}/store"), Path(folder))
            with RealS3(ceph.url, USERS, None).reached():  # type: ignore[arg-type]
                bucket = measure(ArtifactStore(f"s3://{new_bucket()}/prefix"), Path(folder))
    finally:
        ceph.stop()
    rows = [[what, value, bucket[what]] for what, value in local.items()]
    add_rows("The store: a folder, and a bucket of a Ceph gateway in memory", ["", "folder", "S3"], rows)
    for row in rows:
        print(" | ".join(row))


if __name__ == "__main__":
    main()
