"""What a real S3 server refuses: each refusal is told apart, with what to do, and within seconds."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import s3fs

from pipeline_lib.errors import S3Error
from pipeline_lib.store import ArtifactStore, Manifest
from tests.s3.conftest import RealS3
from tests.unit.store.test_artifact_store import AT, publish

pytestmark = pytest.mark.timeout(120)


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(S3Error) as error:
        yield
    assert error.value.code == code


def test_a_wrong_secret_an_unknown_key_and_no_key_at_all(real_s3: RealS3, store: ArtifactStore, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with refused("SignatureDoesNotMatch"):
        ArtifactStore(store.root).check_writable()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    s3fs.S3FileSystem.clear_instance_cache()
    with refused("InvalidAccessKeyId"):
        ArtifactStore(store.root).check_writable()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with refused("NoCredentialsError"):
        ArtifactStore(store.root).check_writable()


def test_a_user_who_may_not_even_look_and_one_who_may_only_look(
    real_s3: RealS3, store: ArtifactStore, bucket: str
) -> None:
    manifest = publish(store)
    with real_s3.reached("guest"), refused("AccessDenied"):
        ArtifactStore(store.root).check_writable()
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:aws:iam:::user/guest"]},
                "Action": ["s3:ListBucket", "s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    s3fs.S3FileSystem().call_s3("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))
    with real_s3.reached("guest"):
        reader = ArtifactStore(store.root)
        assert reader.lookup(AT) == manifest and reader.verify(AT) == []
        for write in (
            reader.check_writable,
            lambda: publish(reader, "steps/generate/other"),
            lambda: reader.retract(AT),
        ):
            with refused("AccessDenied"):
                write()
        with refused("AccessDenied"):
            reader.files.remove_folder(reader.path(AT))
    assert store.verify(AT) == [] and list(store.addresses()) == [AT]


def test_a_bucket_that_is_not_there(real_s3: RealS3) -> None:
    for use in (ArtifactStore.check_writable, ArtifactStore.describe, publish, lambda store: store.lookup(AT)):
        with refused("NoSuchBucket"):
            use(ArtifactStore("s3://no-such-bucket/prefix"))


@pytest.mark.parametrize("minutes", [20, -20])
def test_a_clock_that_is_far_off(real_s3: RealS3, store: ArtifactStore, minutes: int) -> None:
    call = "from pipeline_lib.store import ArtifactStore; ArtifactStore({!r}).{}"
    for use in ("check_writable()", "lookup('steps/generate/k')"):
        done = subprocess.run(
            ["faketime", "-f", f"{minutes:+}m", sys.executable, "-c", call.format(store.root, use)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert "RequestTimeTooSkewed" in done.stderr and "set this machine's clock" in done.stderr
    # A clock that is off but not refused yet
    print_warning = f"print({'.'.join(call.format(store.root, 'describe()').split('; ')[1:])}.warning)"
    done = subprocess.run(
        ["faketime", "-f", f"{minutes // 2:+}m", sys.executable, "-c", f"{call.split(';')[0]}; {print_warning}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"clock is 10 minutes {'ahead of' if minutes > 0 else 'behind'} the store's" in done.stdout, done.stderr


def test_a_server_that_is_down_at_the_start_is_said_at_once(real_s3: RealS3, store: ArtifactStore) -> None:
    real_s3.tell("gateway down")
    try:
        with refused("EndpointConnectionError"):
            ArtifactStore(store.root).check_writable()
    finally:
        real_s3.tell("gateway up")
    assert isinstance(publish(store), Manifest)
