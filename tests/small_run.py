"""A run of the demo's own recipe at a size for tests: same model, same stages, fewer photographs."""

from pathlib import Path

import yaml

from pipeline_lib.demo.dataset import write_dataset

RECIPES = Path(__file__).parents[1] / "recipes" / "self_improve"


def write_small_recipe(folder: Path, store: Path) -> Path:
    """A recipe of two iterations over 40 training, 24 validation and 16 test images."""
    table = write_dataset(folder / "data", seed=5, train=40, val=24, test=16)
    fields = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    fields["name"] = "small"
    fields["iterations"] = 2
    fields["data"]["table"] = str(table)
    fields["training"] |= {"batch_size": 8, "micro_batch_size": 8, "epochs": 1}
    fields["evaluation"] = {"bootstrap_samples": 100}
    fields["runtime"] |= {"store": str(store), "shard_rows": 16, "checkpoint_every": 2, "generation_batch_size": 16}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path
