"""A real S3 server without containers: Ceph's gateway, one monitor and one object store in memory, on loopback.

usage: python -m pipeline_lib.testing.s3_server [--port PORT]   start, print a line of JSON, serve until stdin ends
       python -m pipeline_lib.testing.s3_server --check         say which packages are missing

The tests start it with a pipe. When they end, the pipe ends, and the server stops and removes its folder. When this
process is killed, the kernel ends the daemons, and the next start removes the folder. Lines on stdin: `gateway down`
and `gateway up` stop and start the S3 gateway; stored objects stay.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from types import FrameType

PACKAGES = {
    "ceph-mon": "ceph-mon",
    "monmaptool": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
    "radosgw-admin": "radosgw",
    "ceph": "ceph-common",
    "setpriv": "util-linux",
    "faketime": "faketime",
}
USERS = {"owner": ("OWNERACCESSKEY", "owner-secret"), "guest": ("GUESTACCESSKEY", "guest-secret")}
FOLDER = "whyscore-ceph-"
START_S = 120.0
MEMORY_BYTES = 6 << 30

CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{monitor_port}
public_addr = 127.0.0.1
public_network = 127.0.0.0/8
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
run_dir = {folder}
admin_socket = {folder}/$name.$pid.asok
log_file = {folder}/$name.log
log_to_stderr = false
err_to_stderr = false
pid_file =
# One copy of everything, in few placement groups: there is one store.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_data = {folder}/monitor
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_class_load_list = *
osd_class_default_list = *
debug_mon = 0
debug_osd = 0
debug_rgw = 0
[client]
# Without authentication there is no key to encrypt with, and the gateway would insist on it.
ms_mon_client_mode = crc
rgw_data = {folder}/gateway
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_enable_apis = s3
rgw_enable_usage_log = false
rgw_run_sync_thread = false
rgw_thread_pool_size = 64
"""


def missing_packages() -> list[str]:
    """Debian packages whose programs are not on this machine, sorted."""
    return sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})


def how_to_install(packages: list[str]) -> str:
    """The command that installs the missing packages."""
    return f"no real S3 server on this machine: apt-get install --no-install-recommends {' '.join(packages)}"


class Ceph:
    """The three daemons and their folder; `gateway` answers S3 requests."""

    def __init__(self, port: int | None = None):
        _remove_leftovers()
        self.port = port or _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The address of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Set up and start all daemons, and make the users; returns when the gateway answers."""
        fsid, disk, monitor_port = str(uuid.uuid4()), str(uuid.uuid4()), _free_port()
        for name in ("monitor", "osd", "gateway"):
            (self.folder / name).mkdir()
        self.configuration.write_text(
            CONFIGURATION.format(
                fsid=fsid, folder=self.folder, port=self.port, monitor_port=monitor_port, memory=MEMORY_BYTES
            )
        )
        monitors = self.folder / "monitors"
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor_port}]", monitors)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors)
        self._start("ceph-mon", "-i", "a")
        self._call("ceph", "osd", "new", disk)
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._start("ceph-osd", "-i", "0")
        for name, (access_key, secret_key) in USERS.items():
            keys = ["--access-key", access_key, "--secret-key", secret_key]
            self._call("radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *keys)
        self.gateway_up()

    def gateway_up(self) -> None:
        """Start the gateway and wait until it answers."""
        self._start("radosgw", "-n", "client.gateway")
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError as error:
                if self.daemons["radosgw"].poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"radosgw does not answer ({error}):\n{self._log('radosgw')}") from error
                time.sleep(0.1)  # waiting for a port, with a limit

    def gateway_down(self) -> None:
        """Kill the gateway, as if its machine failed."""
        self._end("radosgw")

    def stop(self) -> None:
        """End all daemons and remove their files."""
        for program in reversed(list(self.daemons)):
            self._end(program)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as out:
            self.daemons[program] = subprocess.Popen(
                # -f: stays this process's child, which the kernel ends with it
                ["setpriv", "--pdeathsig", "KILL", program, "-c", str(self.configuration), "-f", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C in a terminal is for the tests; they stop this in order
            )

    def _call(self, program: str, *arguments: str | Path) -> None:
        command = [program, "-c", str(self.configuration), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")

    def _end(self, program: str) -> None:
        self.daemons[program].kill()  # everything is in memory, so an orderly end saves nothing
        self.daemons[program].wait()

    def _log(self, program: str) -> str:
        return (self.folder / f"{program}.out").read_text(errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _remove_leftovers() -> None:
    """Folders of servers whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        process = folder.name.removeprefix(FOLDER).split("-")[0]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


def serve(port: int | None) -> None:
    """Start, print the address and users as one line of JSON, and follow the lines of stdin until it ends."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    ceph = Ceph(port)
    try:
        ceph.start()
        print(json.dumps({"url": ceph.url, "users": USERS, "folder": str(ceph.folder)}), flush=True)
        for line in sys.stdin:
            {"gateway down": ceph.gateway_down, "gateway up": ceph.gateway_up}[line.strip()]()
            print("done", flush=True)
    finally:
        ceph.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if missing := missing_packages():
        sys.exit(how_to_install(missing))
    if not given.check:
        serve(given.port)


if __name__ == "__main__":
    main()
