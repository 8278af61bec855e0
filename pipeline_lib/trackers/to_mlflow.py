"""MLflow: an entry is an MLflow run that is found again by the tag `whyscore.id`, because the server makes run ids."""

import logging
import os
from collections.abc import Sequence
from typing import Any

from pipeline_lib.trackers.tracker import PROJECT, Entry, Record, Tracker

ID, RUN, ADDRESS = "whyscore.id", "whyscore.run", "whyscore.artifact."
"""Tags: id of the entry, name of the run of WhyScore, and the address of the artifact of each stage."""


def open_tracker() -> Tracker:
    """MLflow at `MLFLOW_TRACKING_URI`."""
    return _Mlflow()


class _Mlflow:
    def __init__(self) -> None:
        import mlflow

        # The callback would log all settings of the trainer, and MLflow refuses the temporary folder of the next
        # attempt as a changed value. A run id of the environment would put all trainings into one entry.
        os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"
        os.environ.pop("MLFLOW_RUN_ID", None)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry would be a line
        self.mlflow, self.client = mlflow, mlflow.MlflowClient()

    def begin(self, entry: Entry) -> int:
        if self.mlflow.active_run() is not None:  # of an attempt to begin that failed later
            self.mlflow.end_run()
        run_id = self._find_or_create(entry)
        self.mlflow.start_run(run_id=run_id)
        return max((point.step for point in self.client.get_metric_history(run_id, "loss")), default=-1)

    def callback(self) -> Any:
        from transformers.integrations import MLflowCallback

        class InOrder(MLflowCallback):
            """In this thread, so that a failure is seen and the call made again."""

            def setup(self, *args: Any) -> None:
                super().setup(*args)
                self._async_log = False

        return InOrder()

    def end(self, *, finished: bool) -> None:
        if self.mlflow.active_run() is not None:
            self.mlflow.end_run("FINISHED" if finished else "KILLED")

    def record(self, entry: Entry, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        run_id = self._find_or_create(entry)
        there = self.client.get_run(run_id).data.tags
        for record in records:
            tag = f"{ADDRESS}{record.title}"
            if there.get(tag) == record.address:
                continue
            now = get_current_time_millis()
            figures = [Metric(f"{record.title}/{name}", value, now, 0) for name, value in record.figures.items()]
            for name, text in record.texts.items():
                self.client.log_text(run_id, text, name)
            # the address last: it says that the rest is there
            self.client.log_batch(run_id, metrics=figures)
            self.client.set_tag(run_id, tag, record.address)
            if record.texts:
                self.client.set_terminated(run_id)

    def _find_or_create(self, entry: Entry) -> str:
        from mlflow.entities import Param

        experiment_id = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT)
        found = self.client.search_runs([experiment_id], f"tags.`{ID}` = '{entry.id}'", max_results=1)
        if found:
            run = found[0]
        else:
            name, tags = f"{entry.run} {entry.title}".strip(), {ID: entry.id, RUN: entry.run}
            run = self.client.create_run(experiment_id, tags=tags, run_name=name)
        missing = entry.settings.keys() - run.data.params.keys()
        if missing:
            params = [Param(name, str(entry.settings[name])) for name in sorted(missing)]
            self.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:  # another thread or run was first
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)
