"""The files for containers: what can be checked without an engine."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from deployments.register import job_template, prefect_project

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker" / "compose.yaml").read_text()


def test_no_secret_of_the_compose_file_has_a_default() -> None:
    uses = re.findall(r"\$\{(\w+)(:?[-?])?", COMPOSE)
    secrets = {name for name, _ in uses if re.search("PASSWORD|AUTH_STRING|_KEY", name)}
    of_others = {"OPENAI_API_KEY", "WHYSCORE_ENGINE_KEY"}  # of services that a recipe may name, or not
    assert secrets - of_others == {"PREFECT_AUTH_STRING", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert {operator for name, operator in uses if name in secrets - of_others} == {":?"}
    given = (ROOT / "docker" / "example.env").read_text().splitlines()
    assert {f"{name}=" for name in secrets} <= set(given)


def test_every_image_is_pinned_and_what_others_need_has_a_health_check() -> None:
    services = yaml.safe_load(COMPOSE)["services"]
    for service in services.values():
        assert not service["image"].endswith("latest")
        assert ":" in service["image"]
        for name, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
    assert services["worker-gpu"]["profiles"] == ["gpu"]


def test_the_image_installs_the_pins_of_the_project() -> None:
    printed = subprocess.run(
        [sys.executable, "docker/requirements.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    copied = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for folder in ("pipeline_lib", "tasks", "flows", "deployments", "recipes"):
        assert f"!{folder}" in copied


def test_kubernetes_jobs_ask_for_a_gpu_in_the_gpu_pool_alone() -> None:
    gpus = {}
    for pool in ("cpu", "gpu"):
        template = job_template("kubernetes", pool)
        gpus[pool] = template["variables"]["properties"]["gpus"]["default"]
        container = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
        named = set(re.findall(r"\{\{ (\w+) \}\}", str(template["job_configuration"])))
        assert named == set(template["variables"]["properties"])
    assert gpus == {"cpu": 0, "gpu": 1}


def test_deployed_flows_load_without_an_editable_install() -> None:
    # Prefect puts the script's folder first where modules are looked for: a `flows.py` there would hide the package.
    entrypoints = {item["entrypoint"] for item in prefect_project()["deployments"]}
    assert "deployments/deployed.py:self_improve" in entrypoints
    code = (
        "import sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'Editable' not in getattr(finder, '__name__', '')]\n"
        "from prefect.flows import load_flow_from_entrypoint\n"
        "for entrypoint in sys.argv[1:]: load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(entrypoints)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
