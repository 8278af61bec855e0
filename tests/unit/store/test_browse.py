"""Where a browser finds a report."""

import pytest

from pipeline_lib.errors import StoreError
from pipeline_lib.store.browse import browser_address, browsing


def test_the_address_is_that_of_the_store_it_was_given_for_alone(monkeypatch, tmp_path):
    for name, value in browsing("s3://bucket/prefix/", "https://files.example/w/").items():
        monkeypatch.setenv(name, value)
    page = "s3://bucket/prefix/runs/a b/report/report.html"
    assert browser_address("s3://bucket/prefix", page) == "https://files.example/w/runs/a%20b/report/report.html"
    assert browser_address("s3://other", "s3://other/runs/a/report/report.html").startswith("s3://other/")
    folder = str(tmp_path / "store")
    assert browser_address(folder, f"{folder}/runs/a/x.html") == f"file://{folder}/runs/a/x.html"


def test_a_folder_has_an_address_too(monkeypatch, tmp_path):
    for name, value in browsing(str(tmp_path), "http://10.0.0.1:8000").items():
        monkeypatch.setenv(name, value)
    assert browser_address(str(tmp_path), f"{tmp_path}/runs/a/x.html") == "http://10.0.0.1:8000/runs/a/x.html"


@pytest.mark.parametrize(
    "url", ["files.example", "javascript:alert(1)", "https://me:secret@files.example", "https://f/?key=secret"]
)
def test_an_address_for_no_browser_or_with_a_secret_is_refused(url):
    with pytest.raises(StoreError, match="--store-url") as refused:
        browsing("s3://bucket", url)
    assert "secret" not in str(refused.value)
