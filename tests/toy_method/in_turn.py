"""Commands in turn, each in a process of its own that is forked from this one, where all libraries are imported once.

usage: in_turn.py COMMANDS LOGS

COMMANDS is a JSON file with a list of commands: `["whyscore", ..]` with arguments of the command line, `["die", RECIPE,
MOMENT, JOURNAL]` as in `tests.crash.run_and_die`, or `["deployed", METHOD, PARAMETERS]`, which calls a deployed flow.
Command N prints to LOGS/N.txt. Prints the list of exit statuses (negative: killed by that signal).
"""

import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTED = (
    *("prefect.main", "trl", "peft", "transformers", "pipeline_lib.train.sft", "pipeline_lib.train.run_job"),
    *("pipeline_lib.vlm.load", "pipeline_lib.vlm.generate", "pipeline_lib.report.page", "tasks.stage"),
)


def carry_out(what: str, *arguments: Any) -> None:
    """One command, in this process."""
    if what == "whyscore":
        from whyscore.cli import app

        app(list(arguments))
    elif what == "die":
        from tests.crash.run_and_die import main

        main(*arguments)
    else:
        from prefect.flows import load_flow_from_entrypoint

        from whyscore.commands.terminal import show_log

        show_log()
        method, parameters = arguments
        load_flow_from_entrypoint(f"deployments/deployed.py:{method}", use_placeholder_flow=False)(**parameters)


def main(commands: str, logs: str) -> None:
    """All commands."""
    from whyscore.commands.terminal import prepare_prefect

    prepare_prefect()
    logging.getLogger("whyscore").handlers.clear()  # each command shows its own log
    for name in IMPORTED:
        import_module(name)
    import resource
    import time

    statuses = []
    print("IMPORTED", time.process_time(), file=open("/tmp/cpu.txt", "w"))
    for number, command in enumerate(json.loads(Path(commands).read_text())):
        if (process := os.fork()) == 0:
            log = os.open(f"{logs}/{number}.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            carry_out(*command)
            sys.exit()
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        u = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(number, u.ru_utime + u.ru_stime, file=open("/tmp/cpu.txt", "a"))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
