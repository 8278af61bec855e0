"""What a model was measured on, item by item, and the differences of two models; a module a method.

`measured(run, model)` of `pipeline_lib.use.measured.<method>` gives the sets of items that a model of a run was
measured on, its main one first. Items of two runs are the same if their content is (`Measured.ids`), so that runs of
different methods, data files and stores can be compared. Nothing that a method without a module measured is compared.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline_lib.metrics.intervals import FEWEST_GROUPS, effective_groups, grouped_estimates, rate_estimate
from pipeline_lib.metrics.scores import UNDEFINED, Estimate
from pipeline_lib.store.runs import RunFolder, RunModel

Array = NDArray[np.float64]


class Figure(NamedTuple):
    """A figure of items: a function of columns, each of shape (n,), and of weights (`pipeline_lib.metrics.figures`)."""

    name: str
    heading: str
    of: Callable[..., Array]
    columns: tuple[Array, ...]
    decimals: int = 3
    measured_with: str = ""  # a judge; figures of two judges are not compared
    unit: str = ""  # figures of two units are not compared, unless they are of the same items with the same truth
    lower_is_better: bool = False
    rate: bool = False  # a mean of values 0 and 1, whose interval has a width where all are equal


class Measured(NamedTuple):
    """Items that a model was measured on, and its figures of them."""

    items: str  # what an item is, in the plural: images, questions
    data: str  # name of the data set
    ids: tuple[str, ...]  # by the content of the item
    truth: tuple[Any, ...]  # what the model was measured against, an entry an item
    groups: NDArray[np.str_]  # shape (n,)
    figures: tuple[Figure, ...]

    def figure(self, name: str) -> Figure | None:
        """One of its figures."""
        return next((figure for figure in self.figures if figure.name == name), None)


class Settings(NamedTuple):
    """Of all intervals of a comparison."""

    samples: int
    confidence: float
    seed: int


class Difference(NamedTuple):
    """A figure of the second model less that of the first."""

    estimate: Estimate
    how: Literal["paired", "unpaired", "not compared"]
    why: str = ""  # why it is not paired on all items, or not compared


def measured_of(run: RunFolder, model: RunModel) -> list[Measured]:
    """The items that a model of a run was measured on, the main ones first; empty if its method does not tell."""
    name = f"{__name__}.{run.fields.get('method', 'self_improve')}"
    if not find_spec(name):
        return []
    found: list[Measured] = import_module(name).measured(run, model)
    return [each for each in found if each.ids and each.figures]


def numbered(contents: list[str]) -> tuple[str, ...]:
    """Ids of items by their content: the second item of one content is another item."""
    seen: dict[str, int] = {}
    ids = []
    for content in contents:
        seen[content] = seen.get(content, 0) + 1
        ids.append(f"{content} {seen[content]}")
    return tuple(ids)


def table_of(run: RunFolder, role: str, name: str) -> pa.Table | None:
    """A table of the artifact of a role; None where the run has no such artifact or table."""
    ref = run.find(role)
    if ref is None:
        return None
    manifest = run.store.lookup(ref.address)
    return run.store.read_table(ref.address, name) if name in getattr(manifest, "tables", ()) else None


def estimates(found: Measured, settings: Settings) -> dict[str, Estimate]:
    """Every figure with its interval over the groups of its items."""
    figures = {
        figure.name: lambda weights, figure=figure: figure.of(*figure.columns, weights) for figure in found.figures
    }
    rates = {figure.name: figure.columns[0] for figure in found.figures if figure.rate}
    return {
        **grouped_estimates(figures, groups=found.groups, **settings._asdict()),
        **{name: rate_estimate(values, groups=found.groups, **settings._asdict()) for name, values in rates.items()},
    }


def shared(one: Measured, other: Measured) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the items that both have, in the order of the first."""
    place = {item: at for at, item in enumerate(other.ids)}
    rows = [(at, place[item]) for at, item in enumerate(one.ids) if item in place]
    first, second = (np.array([row[side] for row in rows], dtype=np.int64) for side in (0, 1))
    return first, second


def difference(one: Measured, other: Measured, name: str, settings: Settings) -> Difference:
    """The difference of a figure that both have.

    Paired, over the items that both have, if these are all or come from `FEWEST_GROUPS` groups or more: each resample
    of groups serves both models. Else unpaired: the resamples hold groups of both, and the interval covers the choice
    of items too. Not compared where the items that both have are measured against different truths, or by different
    judges, and unpaired where the units differ.
    """
    first, second = one.figure(name), other.figure(name)
    if first is None or second is None:
        return Difference(UNDEFINED, "not compared", "only one of them has this figure")
    if first.measured_with != second.measured_with:
        by = f"measured with {first.measured_with} and with {second.measured_with}"
        return Difference(UNDEFINED, "not compared", by)
    a, b = shared(one, other)
    items = one.items
    unequal = sum(one.truth[i] != other.truth[j] for i, j in zip(a, b, strict=True))
    if unequal:
        return Difference(
            UNDEFINED, "not compared", f"{unequal} of {len(a)} shared {items} are measured against another truth"
        )
    if set(one.ids) == set(other.ids) or effective_groups(one.groups[a]) >= FEWEST_GROUPS:

        def paired(weights: Array) -> Array:
            return second.of(*(column[b] for column in second.columns), weights) - first.of(
                *(column[a] for column in first.columns), weights
            )

        found = grouped_estimates({name: paired}, groups=one.groups[a], **settings._asdict())[name]
        partly = len(a) < max(len(one.ids), len(other.ids))
        why = f"over the {len(a)} {items} that both have, of {len(one.ids)} and {len(other.ids)}" if partly else ""
        return Difference(found, "paired", why)
    if first.unit != second.unit:
        return Difference(UNDEFINED, "not compared", f"on {first.unit} and on {second.unit}")
    n = len(one.ids)
    groups = np.array([f"1 {group}" for group in one.groups] + [f"2 {group}" for group in other.groups])

    def unpaired(weights: Array) -> Array:
        return second.of(*second.columns, weights[:, n:]) - first.of(*first.columns, weights[:, :n])

    found = grouped_estimates({name: unpaired}, groups=groups, **settings._asdict())[name]
    why = f"{len(a) or 'none'} of the {items} are the same, so it is a difference of {items} too"
    return Difference(found, "unpaired", why)
