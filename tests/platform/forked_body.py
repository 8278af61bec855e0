"""Stands for Prefect's engine in tests of forked runs: says what it is, and does what the environment asks for."""

import os
import sys
import threading
import time

print(os.environ["SAID"], os.getcwd(), os.getpid(), os.environ.get("OF_SERVER"), threading.active_count(), flush=True)
print("to stderr", file=sys.stderr, flush=True)
if os.environ["DOES"] == "sleep":
    time.sleep(600)
sys.exit(int(os.environ["DOES"]))
