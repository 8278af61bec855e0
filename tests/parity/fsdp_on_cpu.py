"""A training process whose model is shared over gloo: accelerate does that on GPUs alone, torch on a CPU as well."""

import sys
from pathlib import Path

from accelerate.state import DistributedType, PartialState

from pipeline_lib.train.process import main

prepare = PartialState.__init__


def as_on_gpus(self: PartialState, cpu: bool = False, **options: object) -> None:
    prepare(self, cpu, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = as_on_gpus  # type: ignore[method-assign]

if __name__ == "__main__":
    main(Path(sys.argv[1]))
