"""What keeps a worker of a cluster from taking part; tests/cluster has the cluster itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.checks.cluster import _problems, check_cluster, other_versions
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.store import ArtifactStore
from pipeline_lib.store.manifest import environment


def test_another_version_is_named_and_another_build_of_torch_is_none() -> None:
    same = environment()
    torch = same["versions"]["torch"].partition("+")[0]
    assert other_versions(same) is None
    for build in (torch, f"{torch}+cu130"):
        assert other_versions({**same, "versions": {**same["versions"], "torch": build}}) is None
    told = other_versions({**same, "versions": {**same["versions"], "peft": "0.0.1"}})
    assert told and f"peft {same['versions']['peft']} instead of 0.0.1" in told
    commit = other_versions({**same, "git_commit": "f" * 40})
    assert same["git_commit"] is None or (commit and "instead of ffffffff" in commit)
    assert other_versions({**same, "git_commit": None}) is None


def test_every_problem_of_a_worker_is_told(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    store.write_pointer("probe", {"for": "this test"})
    assert _problems(environment(), store.root, "probe", [str(tmp_path)], None) == []
    wrong = {**environment(), "versions": {"python": "2.7"}}
    elsewhere, absent = str(tmp_path / "elsewhere"), str(tmp_path / "image_set")
    found = _problems(wrong, elsewhere, "probe", [absent], "http://127.0.0.1:9/api")
    assert [next(word for word in ("python", elsewhere, absent, "9/api") if word in line) for line in found] == [
        "python", elsewhere, absent, "9/api",
    ]  # fmt: skip


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WhyScoreError, match="no Dask scheduler answers there"):
        check_cluster("nonsense://x", ArtifactStore(str(tmp_path)))


def test_flows_without_a_cluster_do_not_import_dask() -> None:
    code = (
        "import sys, flows.self_improve, flows.predict; sys.exit('distributed' in sys.modules or 'dask' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
