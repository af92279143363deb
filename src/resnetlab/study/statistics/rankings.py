"""Rankings of arms at equal depth, with ties, from their comparisons."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import SPLITS, ArmComparison, Setting, arms_by_setting, error_pct
from resnetlab.study.statistics.paired_comparison import RunsBySeed
from resnetlab.study.statistics.seed_stats import SeedStats, seed_stats


@dataclass(frozen=True)
class Place:
    """The place of one arm in a ranking; `num_diverged` of its runs ended in NaN."""

    arm: str
    rank: int
    """1 plus the number of arms that are clearly better; arms that tie may share it."""
    error_pct: SeedStats
    """Error over the seeds that all arms share, in %; a run that ended in NaN counts as 100 %."""
    num_diverged: int


@dataclass(frozen=True)
class Ranking:
    """The `places` of arms in one `setting`, in the order of their mean error."""

    setting: Setting
    places: tuple[Place, ...]

    @property
    def sentence(self) -> str:
        """The ranking in words: `training error: A 3.90 % and B 4.10 % rank 1; C 22.10 % ranks 3`."""
        groups = []
        for rank, group in itertools.groupby(self.places, key=lambda place: place.rank):
            arms = [f"{place.arm} {place.error_pct.mean:.2f} %" for place in group]
            words = " and ".join(filter(None, [", ".join(arms[:-1]), arms[-1]]))
            groups.append(f"{words} rank{'s' * (len(arms) == 1)} {rank}")
        return f"{SPLITS[self.setting.split]}: {'; '.join(groups)}"

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`; its keys are stable between versions."""
        return {**asdict(self.setting), "places": [asdict(place) for place in self.places], "sentence": self.sentence}


def rankings(runs: Sequence[Run], comparisons: Sequence[ArmComparison]) -> list[Ranking]:
    """Return the ranking of the arms in each setting in which all arms share two seeds or more.

    Errors are means over these seeds.
    """
    uncompared = {setting for setting, *_ in uncompared_arms(runs, comparisons)}
    ranked = []
    for setting, arms in arms_by_setting(runs).items():
        own = [comparison for comparison in comparisons if comparison.setting == setting]
        if not own or setting in uncompared or any(comparison.p_holm is None for comparison in own):
            continue
        shared = set.intersection(*(_known_seeds(by_seed, setting.split) for by_seed in arms.values()))
        if len(shared) < 2:
            continue
        places = []
        for arm, by_seed in arms.items():
            stats = seed_stats([error_pct(by_seed[seed], setting.split) for seed in sorted(shared)])
            assert stats is not None
            num_better = sum(arm in (c.first, c.second) and c.better not in (arm, None) for c in own)
            num_diverged = sum(by_seed[seed].status == "diverged" for seed in shared)
            places.append(Place(arm, 1 + num_better, stats, num_diverged))
        places.sort(key=lambda place: (place.rank, place.error_pct.mean))
        ranked.append(Ranking(setting, tuple(places)))
    return ranked


def uncompared_arms(runs: Sequence[Run], comparisons: Sequence[ArmComparison]) -> list[tuple[Setting, str, str]]:
    """Return every two arms of a setting that have no seed in common, so they are not compared."""
    compared = {(comparison.setting, comparison.first, comparison.second) for comparison in comparisons}
    return [
        (setting, first, second)
        for setting, arms in arms_by_setting(runs).items()
        for first, second in itertools.combinations(arms, 2)
        if (setting, first, second) not in compared
    ]


def _known_seeds(by_seed: RunsBySeed, split: str) -> set[int]:
    return {seed for seed, run in by_seed.items() if error_pct(run, split) is not None}
