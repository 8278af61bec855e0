"""What all tests share: no network, one thread, a tiny model, and the label files when they are there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

for _name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402 - what is imported later reads the settings above

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def label_files() -> Path:
    """Real AADB, AVA and KonIQ label files, beside the repository; without them the test is skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "imgListTrainRegression_score.txt").exists():
        pytest.skip("the real label files are not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llava of random weights, small enough to train in a second; do not write to it, copy it."""
    from pipeline_lib.testing.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


_S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on loopback, for the whole session; make a bucket of your own, so that tests stay apart.

    The environment has its address and keys, so `fsspec.filesystem("s3")` and `s3://` URLs reach it as they are. The
    server is a process of its own and ends with the tests, however those end.
    """
    import s3fs

    server = subprocess.Popen(
        [sys.executable, "-c", _S3_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdin and server.stdout
    port = server.stdout.readline().decode().strip()
    assert port, "moto's server did not start; is moto[server] installed?"
    url = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
        s3fs.S3FileSystem.clear_instance_cache()
    server.stdin.close()
    server.wait(timeout=10)
