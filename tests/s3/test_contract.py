"""The contract of every store (tests/unit/store), on a real S3 server."""

from tests.unit.store import test_artifact_store as contract

for _name, _test in vars(contract).items():
    if _name.startswith("test_") and "store" in _test.__code__.co_varnames[: _test.__code__.co_argcount]:
        globals()[_name] = _test  # with the fixture `store` of this folder
