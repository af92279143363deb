"""Table of a report: one row for each data set and network, with each metric aggregated over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import (
    dead_relus_pct,
    first_gradient,
    movement,
    residual_ratio,
    steepest_gradient,
    steps_to_error,
)
from resnetlab.study.statistics.seed_stats import SeedStats, seed_stats
from resnetlab.study.verdicts.layer_steps import layer_steps

CONVERGENCE_PCT = (50, 20, 10, 5)
"""Training errors, in %, for which the table lists the steps needed: the paper's "easier to optimise" (section 4.1)."""


@dataclass(frozen=True)
class TableRow:
    """Row of the report's table: all seeds of one network on one data set. Field names are keys of `results.json`."""

    data: str
    network: str
    """Label of the network: `plain-56`, `residual-56, 50 images`."""
    arm: str
    """Arm of the experiment, such as `plain`."""
    depth: int
    """Layers with weights."""
    num_seeds: int
    """Finished runs."""
    num_failed: int
    """Runs that diverged, failed or are unfinished."""
    params: int | None
    """Parameters of the network."""
    macs: int | None
    """Multiply-adds for one image."""
    train_error_pct: SeedStats | None
    """Training error over seeds, in %."""
    val_error_pct: SeedStats | None
    """Validation error over seeds, in %."""
    test_error_pct: SeedStats | None
    """Test error over seeds, in %."""
    time_s: SeedStats | None
    """Time of a run, in seconds."""
    steps_to: dict[int, tuple[float, int] | None]
    """Training error in % to the median step that reaches it and the number of seeds that do; `None` if none does."""
    first_gradient: SeedStats | None
    """||gradient|| / ||weights|| of the median layer at the first step."""
    steepest_gradient: SeedStats | None
    """||gradient|| / ||weights|| of the layer where it is largest, at the first step."""
    longest_step: SeedStats | None
    """Longest step of a layer in the whole run, in units of the norm of its weights."""
    overwritten_pct: SeedStats | None
    """Share of layers that took a step as long as their weights or longer, in %."""
    stalled_pct: SeedStats | None
    """Share of layers that hardly moved for a quarter of the run, in %."""
    movement: SeedStats | None
    """Upper bound on the movement of the median layer in the whole run, in units of its weights' norm."""
    dead_relus_pct: SeedStats | None
    """Share of dead ReLUs at the last sample, in %."""
    residual_ratio: SeedStats | None
    """||F(x)|| / ||shortcut(x)|| at the last sample, mean over blocks; `None` for plain networks."""


def table_rows(runs: Sequence[Run]) -> list[TableRow]:
    """Return one row for each data set and network."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.data, run.network), []).append(run)
    return [_row(group) for group in grouped.values()]


def _row(group: Sequence[Run]) -> TableRow:
    done = [run for run in group if run.status == "done"]
    ended = [run for run in group if run.status in ("done", "diverged")]
    steps = [layer_steps(run) for run in ended]
    costs = next((run.start for run in group if run.start), {})

    def over_seeds(key: str) -> SeedStats | None:
        return seed_stats([run.result[key] for run in done])

    return TableRow(
        data=group[0].data,
        network=group[0].network,
        arm=group[0].arm,
        depth=group[0].depth,
        num_seeds=len(done),
        num_failed=len(group) - len(done),
        params=costs.get("params"),
        macs=costs.get("macs"),
        train_error_pct=over_seeds("train_error_pct"),
        val_error_pct=over_seeds("val_error_pct"),
        test_error_pct=over_seeds("test_error_pct"),
        time_s=over_seeds("time_s"),
        steps_to={pct: _median_steps_to(done, pct) for pct in CONVERGENCE_PCT},
        first_gradient=seed_stats([first_gradient(run) for run in ended]),
        steepest_gradient=seed_stats([steepest_gradient(run) for run in ended]),
        longest_step=seed_stats([taken and taken.longest for taken in steps]),
        overwritten_pct=seed_stats([taken and taken.overwritten_pct for taken in steps]),
        stalled_pct=seed_stats([taken and taken.stalled_pct for taken in steps]),
        movement=seed_stats([movement(run) for run in ended]),
        dead_relus_pct=seed_stats([dead_relus_pct(run) for run in ended]),
        residual_ratio=seed_stats([residual_ratio(run) for run in ended]),
    )


def _median_steps_to(runs: Sequence[Run], error_pct: float) -> tuple[float, int] | None:
    steps = [step for run in runs if (step := steps_to_error(run, error_pct)) is not None]
    return (statistics.median(steps), len(steps)) if steps else None
