"""The file of settings and secrets."""

from pathlib import Path

import pytest

from deployments import services
from deployments.settings import client_environment, create_settings, memory_s3, stack_file
from deployments.stack import up


def test_secrets_are_random_private_and_stay(tmp_path: Path) -> None:
    first, again = create_settings(tmp_path / "a"), create_settings(tmp_path / "a", PREFECT_PORT="1")
    other = create_settings(tmp_path / "b", PREFECT_PORT="4300")
    assert again == first
    assert other["PREFECT_PORT"] == "4300"
    assert stack_file(tmp_path / "a").stat().st_mode & 0o777 == 0o600
    for secret in ("PREFECT_AUTH_STRING", "POSTGRES_PASSWORD"):
        assert first[secret] != other[secret]
        assert len(first[secret]) >= 32


def test_workers_are_not_told_the_database_password(tmp_path: Path) -> None:
    settings = create_settings(tmp_path, AWS_ACCESS_KEY_ID="key")
    told = client_environment(settings)
    assert not any(settings["POSTGRES_PASSWORD"] in value for value in told.values())
    assert told["AWS_ACCESS_KEY_ID"] == "key"
    assert told["DO_NOT_TRACK"] == "1"


def test_no_secrets_are_made_that_do_not_open_the_database(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(SystemExit, match="postgres was made with the password in it"):
        create_settings(tmp_path)
    assert not stack_file(tmp_path).exists()


def test_each_setting_that_differs_is_named_and_no_secret_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_binary", lambda name: name)
    create_settings(tmp_path, WHYSCORE_STORE="/old", AWS_SECRET_ACCESS_KEY="hidden-1")
    wanted = {"WHYSCORE_STORE": "s3://bucket/new", "AWS_SECRET_ACCESS_KEY": "hidden-2", "AWS_PROFILE": "own"}
    with pytest.raises(SystemExit) as caught:
        up(tmp_path, wanted)
    said = str(caught.value)
    assert "WHYSCORE_STORE: /old, asked for s3://bucket/new" in said
    assert "AWS_SECRET_ACCESS_KEY differs" in said and "AWS_PROFILE differs" in said
    assert "hidden" not in said and "or remove it" not in said


def test_missing_packages_are_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline_lib.testing.s3_server.missing_packages", lambda: ["radosgw"])
    monkeypatch.setattr(services, "_binary", lambda name: name)
    with pytest.raises(SystemExit, match=r"apt-get install .*radosgw"):
        up(tmp_path / "stack", memory_s3(7480))
    assert not (tmp_path / "stack").exists()
