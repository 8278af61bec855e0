"""Kill a run of stic in a shard, in both trainings and at a publish; it ends with the digests of the uninterrupted."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.crash.conftest import digests, go_on_after_kills
from tests.small_stic import write_small_stic


def test_killed_in_each_stage_it_ends_with_the_same_digests(
    run: Callable[..., tuple[int, list[str], str]], tmp_path: Path
) -> None:
    whole = write_small_stic(tmp_path, tmp_path / "whole")
    done, journal, log = run(whole)
    assert done == 0, log[-3000:]
    assert "small-stic" in log or journal
    killed = tmp_path / "killed.yaml"
    killed.write_text(whole.read_text().replace(str(tmp_path / "whole"), str(tmp_path / "killed")))
    log = go_on_after_kills(run, killed, ("after /shards/", "step 3", "before infuse/", "step 4", "before report/"))[-1]
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert log.count(": computing [") == 1 and "report: computing [" in log
    shutil.rmtree(tmp_path / "killed")
