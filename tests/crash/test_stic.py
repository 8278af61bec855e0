"""Kill a run of stic in a shard, in both trainings and at a publish; it ends with the digests of the uninterrupted."""

from collections.abc import Callable
from pathlib import Path

from tests.crash.conftest import digests, go_on_after_kills


def test_killed_in_each_stage_it_ends_with_the_same_digests(
    small_stic: Path,
    run: Callable[..., tuple[int, list[str], str]],
    half_done: Callable[[Path, Path], set[str]],
    tmp_path: Path,
) -> None:
    whole, store = small_stic / "store", tmp_path / "store"
    half_done(whole, store)
    killed = tmp_path / "killed.yaml"
    killed.write_text((small_stic / "small_stic.yaml").read_text().replace(str(whole), str(store)))
    log = go_on_after_kills(run, killed, ("after /shards/", "step 3", "before infuse/", "step 4", "before report/"))[-1]
    assert digests(store) == digests(whole)
    assert log.count(": computing [") == 1 and "report: computing [" in log
