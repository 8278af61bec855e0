"""Run a recipe in this process and kill the process with SIGKILL at a chosen moment; no clean-up of any kind happens.

usage: run_and_die.py RECIPE MOMENT JOURNAL

MOMENT is `never`, or one of
  before PATTERN   just before the manifest of the first address that holds PATTERN is created
  after PATTERN    just after it
  first-before     just before the first manifest that this process would create; first-after: just after it
  step N           after N optimiser steps of this process
  terminate N      the same with SIGTERM, which a process may answer
  batch N          after N generated batches of this process

Every address that is about to be published is appended to JOURNAL.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(recipe_path: str, moment: str, journal: str) -> None:
    from whyscore.commands.terminal import errors_for_people, prepare_prefect

    prepare_prefect()
    from tests.forked import read_prefect_settings

    read_prefect_settings()
    from pipeline_lib.config.load import load_recipe
    from pipeline_lib.store import ArtifactStore, Manifest
    from pipeline_lib.store.store import Attempt

    word, _, argument = moment.partition(" ")
    publish = ArtifactStore.publish

    def note_publish(store: ArtifactStore, address: str, attempt: Attempt, arguments: dict) -> Manifest:
        with Path(journal).open("a") as file:
            file.write(address + "\n")
        return publish(store, address, attempt, arguments)

    ArtifactStore.publish = note_publish  # type: ignore[method-assign]
    if word in {"before", "after", "first-before", "first-after"}:
        create = ArtifactStore._create_manifest

        def create_and_die(store: ArtifactStore, address: str, manifest: Manifest) -> Manifest:
            here = argument in address
            if here and word.endswith("before"):
                die()
            created = create(store, address, manifest)
            if here and word.endswith("after"):
                die()
            return created

        ArtifactStore._create_manifest = create_and_die  # type: ignore[method-assign]
    elif word in {"step", "terminate"}:
        from pipeline_lib.train import trainer

        finished, log_step = [0], trainer._ProgressCallback.on_step_end

        def count_steps(self: object, *args: object, **kwargs: object) -> None:
            log_step(self, *args, **kwargs)  # type: ignore[arg-type]
            finished[0] += 1
            if finished[0] == int(argument):
                os.kill(os.getpid(), signal.SIGKILL if word == "step" else signal.SIGTERM)

        trainer._ProgressCallback.on_step_end = count_steps  # type: ignore[method-assign,assignment]
    elif word == "batch":
        from pipeline_lib.methods.self_improve import score_pairs

        batches, generate = [0], score_pairs.generate_answers

        def count_batches(*args: object) -> object:
            answers = generate(*args)  # type: ignore[arg-type]
            batches[0] += 1
            if batches[0] == int(argument):
                die()
            return answers

        score_pairs.generate_answers = count_batches  # type: ignore[assignment]
    elif moment != "never":
        sys.exit(f"unknown moment {moment}")
    with errors_for_people():
        recipe = load_recipe(recipe_path)
        getattr(import_module(f"flows.{recipe.method}"), recipe.method)(recipe)


if __name__ == "__main__":
    main(*sys.argv[1:])
