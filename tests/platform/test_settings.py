"""The file of settings and secrets."""

from pathlib import Path

from deployments.settings import client_environment, create_settings, stack_file


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
