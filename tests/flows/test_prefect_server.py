"""Several runs at once on one SQLite database: none of their requests is refused, none waits for a minute."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx


def test_flow_runs_that_begin_at_once_are_all_taken(prefect_server: str) -> None:
    flow = httpx.post(f"{prefect_server}/flows/", json={"name": "at-once"}).json()["id"]

    def begin(client: int) -> list[tuple[int, float]]:
        found = []
        with httpx.Client(timeout=120) as session:
            for number in range(12):
                begun = time.monotonic()
                body = {"flow_id": flow, "name": f"{client}-{number}", "state": {"type": "PENDING"}}
                run = session.post(f"{prefect_server}/flow_runs/", json=body)
                found.append((run.status_code, time.monotonic() - begun))
                if run.status_code == 201:
                    body = {"state": {"type": "RUNNING"}, "force": False}
                    begun = time.monotonic()
                    state = session.post(f"{prefect_server}/flow_runs/{run.json()['id']}/set_state", json=body)
                    found.append((state.status_code, time.monotonic() - begun))
        return found

    with ThreadPoolExecutor(4) as clients:
        answers = [answer for found in clients.map(begin, range(4)) for answer in found]
    assert {status for status, _ in answers} == {201}
    assert max(seconds for _, seconds in answers) < 40
