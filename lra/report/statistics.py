"""Several runs as one number: mean and standard deviation over seeds, and the interval that a test split allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from .runs import Run

LEVEL = 0.95
"""Confidence of the intervals."""


@dataclass(frozen=True)
class Group:
    """Finished or unfinished runs that differ by their seed alone.

    Attributes:
        runs: in the order of their seeds, one of each.
        repeated: further runs of these seeds, which are not counted.
    """

    runs: Sequence[Run]
    repeated: int = 0

    @property
    def first(self) -> Run:
        """A run, for what all have in common."""
        return self.runs[0]

    @property
    def finished(self) -> list[Mapping[str, Any]]:
        """Results of the finished runs."""
        return [run.result for run in self.runs if run.result is not None]

    def values(self, split: str, metric: str = "accuracy") -> list[float]:
        """Of the finished runs, on a split: accuracies in [0, 1], bits or perplexities."""
        return [result[metric][split] for result in self.finished if split in result.get(metric, {})]

    def mean(self, split: str = "test", metric: str = "accuracy") -> float | None:
        """The mean; ``None`` before any run is finished."""
        found = self.values(split, metric)
        return fmean(found) if found else None

    def deviation(self, split: str = "test", metric: str = "accuracy") -> float | None:
        """The sample standard deviation over seeds; ``None`` for fewer than two."""
        found = self.values(split, metric)
        return stdev(found) if len(found) > 1 else None

    def interval(self, split: str = "test") -> tuple[float, float] | None:
        """Wilson's interval of the mean accuracy for the decisions of one run; ``None`` where nothing was decided."""
        mean, decisions = self.mean(split), self.finished[0].get("decisions", {}).get(split) if self.finished else None
        return None if mean is None or decisions is None else wilson(mean, decisions)


def groups(runs: Sequence[Run]) -> list[Group]:
    """Runs of one task, model, kind and data together, in the order of their first runs.

    A seed counts once, however many folders hold a run of it: copies would make a deviation too small. A finished run
    goes before one that is not.
    """
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.recipe["task"], run.model, run.kind), []).append(run)
    return [_group(members) for members in found.values()]


def _group(members: Sequence[Run]) -> Group:
    by_seed: dict[int, Run] = {}
    for run in sorted(members, key=lambda run: (int(run.recipe["seed"]), run.result is None)):
        by_seed.setdefault(int(run.recipe["seed"]), run)
    return Group(list(by_seed.values()), len(members) - len(by_seed))


def wilson(share: float, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of ``count`` independent decisions.

    >>> tuple(round(bound, 4) for bound in wilson(0.5, 100))
    (0.4038, 0.5962)
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
