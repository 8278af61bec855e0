"""Commands in turn, each in a process of its own that is forked from this one, where all libraries are imported once.

usage: in_turn.py COMMANDS LOGS

COMMANDS is a JSON file with a list of commands: `["whyscore", ..]` with arguments of the command line, `["die", RECIPE,
MOMENT, JOURNAL]` as in `tests.crash.run_and_die`, `["deployed", METHOD, PARAMETERS]`, which calls a deployed flow, or
`["forms", METHOD, ..]`, which prints what is deployed and the forms of these flows.
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
    elif what == "deployed":
        from whyscore.commands.terminal import show_log

        show_log()
        method, parameters = arguments
        deployed(method)(**parameters)
    else:
        from deployments.register import prefect_project

        forms = {method: deployed(method).parameters.model_dump() for method in arguments}
        print(json.dumps({"deployments": prefect_project()["deployments"], "forms": forms}))


def deployed(method: str) -> Any:
    """The flow of a method as a worker loads it."""
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(f"deployments/deployed.py:{method}", use_placeholder_flow=False)


def main(commands: str, logs: str) -> None:
    """All commands."""
    from whyscore.commands.terminal import prepare_prefect

    prepare_prefect()
    from tests.forked import read_prefect_settings

    read_prefect_settings()
    logging.getLogger("whyscore").handlers.clear()  # each command shows its own log
    for name in IMPORTED:
        import_module(name)
    statuses = []
    for number, command in enumerate(json.loads(Path(commands).read_text())):
        if (process := os.fork()) == 0:
            log = os.open(f"{logs}/{number}.txt", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            carry_out(*command)
            sys.exit()
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
