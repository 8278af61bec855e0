"""Register pools, deployments and automations on a Prefect server, or update them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from deployments.automations import register_automation
from deployments.notify import register_notifications
from deployments.own_recipes import Listed, list_recipes
from pipeline_lib.errors import WhyScoreError
from pipeline_lib.store.browse import browsing

FOLDER = Path(__file__).resolve().parent
POOLS = ("cpu", "gpu")


def register(
    store: str,
    *,
    home: Path | None = None,
    pool_type: str = "process",
    gpus: int | None = None,
    notify: str | None = None,
    store_url: str | None = None,
    recipes: str | None = None,
) -> list[str]:
    """Register everything that WhyScore needs; returns lines that name it.

    `store` is where the deployments keep their artifacts unless a run says otherwise, `home` the folder in which
    workers find the code (None: where it is here), `gpus` how many runs the GPU pool takes at a time (None: as many
    as it has workers), `notify` the webhook that is told of ended and waiting runs (None: as before), `store_url` the
    address under which browsers reach the store, `recipes` a folder or s3:// prefix of recipe files that the forms
    offer too. Raises `WhyScoreError` when the server cannot be reached or refuses.
    """
    variables = browsing(store, store_url) if store_url else {}
    listed = list_recipes(recipes) if recipes else Listed({}, [])
    variables |= listed.variables
    home = (home or FOLDER.parent).resolve()
    done = [_register_pool(name, pool_type, gpus if name == "gpu" else None) for name in POOLS]
    given = {"WHYSCORE_STORE": store, "WHYSCORE_HOME": str(home), "PREFECT_CLI_PROMPT": "false"}
    environment = os.environ | given | listed.variables
    project = prefect_project(variables)
    with tempfile.TemporaryDirectory(prefix="whyscore-deploy-") as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        ran = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise WhyScoreError(f"prefect deploy failed:\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
    done += listed.lines
    done += [f"deployment {item['name']}" for item in project["deployments"]]
    automations = yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    done += [register_automation(item) for item in automations]
    return done + (register_notifications(notify) if notify else [])


def prefect_project(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The input of `prefect deploy`: prefect.yaml and a deployment for each method, control and predictions.

    `variables` are further environment variables of the flows in the CPU pool.
    """
    project: dict[str, Any] = yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))
    definitions = project.pop("definitions")
    definitions["cpu"]["job_variables"]["env"].update(variables or {})  # one object: an anchor in the file
    common = definitions["method"]
    from deployments.deployed import deployed_names

    names = deployed_names()
    generated = [{"name": name, "entrypoint": f"deployments/deployed.py:{name}"} | common for name in names]
    return project | {"deployments": generated + project["deployments"]}


def _register_pool(name: str, pool_type: str, limit: int | None) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    job = job_template(pool_type, name)
    with get_client(sync_client=True) as client:
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(name=name, type=pool_type, base_job_template=job, concurrency_limit=limit)
            )
            return f"pool {name} (new)"
        if found.type != pool_type:
            raise WhyScoreError(f"pool {name} is of type {found.type}, not {pool_type}; delete it or give --pool-type")
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=job, concurrency_limit=limit))
    return f"pool {name}"


def job_template(pool_type: str, pool: str) -> dict[str, Any]:
    """The base job template of a pool: ours for Kubernetes, else Prefect's own."""
    if pool_type == "kubernetes":
        job: dict[str, Any] = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
        job["variables"]["properties"]["image"]["default"] = f"whyscore:{pool}"
        job["variables"]["properties"]["gpus"]["default"] = int(pool == "gpu")
        return job
    from prefect.utilities.asyncutils import run_coro_as_sync
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    found = run_coro_as_sync(get_default_base_job_template_for_infrastructure_type(pool_type))
    if found is None:
        raise WhyScoreError(f"--pool-type {pool_type}: Prefect knows no such type; use process, docker or kubernetes")
    return found
