"""Where a browser finds a file of a store.

`whyscore deploy --store-url` tells the workers, in two environment variables, under which address browsers reach the
store that it registers.
"""

import os
from pathlib import Path
from urllib.parse import quote

from pipeline_lib.addresses import secret_in
from pipeline_lib.errors import StoreError

URL = "WHYSCORE_STORE_URL"
"""Environment variable: the address for browsers."""

URL_OF = "WHYSCORE_STORE_URL_OF"
"""Environment variable: the store that the address is of. A run may be told to use another one."""


def browsing(store: str, url: str) -> dict[str, str]:
    """The environment that makes `url` the address of `store`; raises `StoreError` for one that cannot be."""
    if not url.startswith(("http://", "https://")):
        raise StoreError("--store-url: give the address under which browsers reach the store, http:// or https://")
    if why := secret_in(url):
        raise StoreError(f"--store-url: {why}")
    return {URL: url.rstrip("/"), URL_OF: _root(store)}


def browser_address(root: str, path: str) -> str:
    """The address of a file (`path`, in the store at `root`) for a browser.

    Without the environment of `browsing` it is a `file://` address, or the path itself for a store in a bucket, which a
    browser does not open.
    """
    url, inside = os.environ.get(URL), path.removeprefix(root).lstrip("/")
    if url and _root(root) == os.environ.get(URL_OF):
        return f"{url}/{quote(inside)}"
    return path if "://" in path else Path(path).resolve().as_uri()


def _root(store: str) -> str:
    return store.rstrip("/") if "://" in store else str(Path(store).expanduser().resolve())
