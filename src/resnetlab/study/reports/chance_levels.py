"""The chance level of each data set of a study, and the networks whose error is no better."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnetlab.evaluation.chance import constant_answer
from resnetlab.study.results import Run


@dataclass(frozen=True)
class ChanceOnData:
    """The chance level on one data set, as the records of its runs have it."""

    data: str
    split: str
    """`test`, or `val` for data without a test split."""
    error_pct: float
    """Error of the best constant answer, in %."""
    answer: str | None
    """The class that is always answered; `None` if every class does as well."""
    no_better: tuple[str, ...]
    """Networks with a run whose 95 % interval reaches the level or that ended in NaN, with how many of their ended
    runs do."""
    known: str = "run"
    """The runs of which it is known: every `run`, every `finished run`, or every `run that recorded it`."""

    @property
    def sentence(self) -> str:
        """Return the level and those networks in words."""
        level = (
            f"Chance level on {self.data}: {self.error_pct:.2f} % {self.split} error by {constant_answer(self.answer)}."
        )
        if not self.no_better:
            return f"{level} Every {self.known} is better than chance."
        return f"{level} No better than chance: {', '.join(self.no_better)}."

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `results.json`."""
        entry = asdict(self)
        del entry["known"]
        return {**entry, "sentence": self.sentence}


def chance_levels(runs: Sequence[Run]) -> list[ChanceOnData]:
    """Return the chance level of each data set; none for records that were written before they had it.

    A run that ended in NaN is the worst result there is, no better than chance.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(run.data, []).append(run)
    return [level for data, group in by_data.items() if (level := _level(data, group)) is not None]


def _level(data: str, runs: Sequence[Run]) -> ChanceOnData | None:
    known = [run for run in runs if run.status == "done" and run.result.get("chance")]
    split = "test" if all(run.result["chance"].get("test") for run in known) else "val"
    entries = [(run.network, entry) for run in known if (entry := run.result["chance"].get(split))]
    if not entries:
        return None
    ended = [(network, entry["better_than_chance"]) for network, entry in entries]
    ended += [(run.network, False) for run in runs if run.status == "diverged"]
    total = Counter(network for network, _ in ended)
    failed = Counter(network for network, is_better in ended if not is_better)
    first = entries[0][1]
    return ChanceOnData(
        data=data,
        split=split,
        error_pct=first["error_pct"],
        answer=first["class"],
        no_better=tuple(
            f"{network} ({count} of {total[network]} run{'s' * (total[network] > 1)})"
            for network, count in failed.items()
        ),
        known=_known(runs, len(ended)),
    )


def _known(runs: Sequence[Run], num_known: int) -> str:
    num_ended = sum(run.status in ("done", "diverged") for run in runs)
    if num_known < num_ended:  # records that were written before they had it
        return "run that recorded it"
    return "run" if num_ended == len(runs) else "finished run"
