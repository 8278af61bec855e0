"""Any number of processes makes each optimiser step of the same micro-batches."""

import math

import pytest
from torch.utils.data import BatchSampler

from pipeline_lib.train.micro_batches import MicroBatchSampler


def samplers(rows: int, micro: int, per_step: int, processes: int) -> list[MicroBatchSampler]:
    return [
        MicroBatchSampler(BatchSampler(range(rows), micro, drop_last=False), per_step, processes, process)
        for process in range(processes)
    ]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 11, 16, 17, 23])
@pytest.mark.parametrize(("micro", "per_step"), [(1, 4), (2, 2), (2, 4), (3, 1), (1, 6)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_step_has_its_own_pairs_each_once(rows: int, micro: int, per_step: int, processes: int) -> None:
    parts = samplers(rows, micro, per_step, processes)
    taken = [list(part) for part in parts]
    assert {len(batches) for batches in taken} == {len(parts[0])}, "they would wait for each other for ever"
    accumulation = math.ceil(per_step / processes)  # what the trainer counts a step by
    for step in range(math.ceil(len(parts[0]) / accumulation)):
        found: list[int] = []
        for part, batches in zip(parts, taken, strict=True):
            own = part.own(step)
            assert own == part.own(step + 2 * math.ceil(len(parts[0]) / accumulation)), "another epoch's"
            mine = batches[step * accumulation : (step + 1) * accumulation]
            assert all(mine) and len(mine) - own in (0, 1)
            found += [row for batch in mine[:own] for row in batch]
        first = step * per_step * micro
        assert sorted(found) == list(range(first, min(first + per_step * micro, rows)))


def test_no_micro_batch_is_cut_or_filled_up() -> None:
    one, other = samplers(11, 2, 4, 2)
    assert list(one) == [[0, 1], [4, 5], [8, 9]]
    assert list(other) == [[2, 3], [6, 7], [10]]
