"""Notes of a report on runs that do not end as planned: an epoch selected on validation, changes on the way, skips."""

from collections.abc import Sequence

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import epoch_selection
from resnetlab.system.count_text import count_text


def run_notes(runs: Sequence[Run]) -> list[str]:
    """Return a sentence on runs that were measured before their end, or whose conditions changed on the way."""
    selections: dict[tuple[str, str], int] = {}
    for run in runs:
        if (setting := epoch_selection(run)) is not None:
            selections[run.data, setting] = selections.get((run.data, setting), 0) + 1
    return [
        *(
            f"The errors of {count_text(count, 'run')} on {data} are those of an epoch that validation images selected "
            f"({setting}), not of the end of training: no verdict on optimisation rests on them."
            for (data, setting), count in selections.items()
        ),
        *(f"{run.label} on {run.data} was {change}." for run in runs for change in run.changes),
        *(
            f"{run.label} on {run.data} skipped {count_text(run.num_skipped, 'step')}, because the loss was not finite."
            for run in runs
            if run.num_skipped
        ),
    ]
