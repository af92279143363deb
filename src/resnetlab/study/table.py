"""The report's table: a line a network, each number over its seeds. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from resnetlab.study.results import Run
from resnetlab.study.run_metrics import (
    dead_relus_pct,
    first_gradient,
    first_step_at,
    movement,
    residual_ratio,
    steepest_gradient,
)
from resnetlab.study.seed_stats import SeedStats, seed_stats

CONVERGENCE_PCT = (50, 20, 10, 5)
"""Training errors, in %, whose first step is looked for: the paper's "easier to optimise" (section 4.1)."""


@dataclass(frozen=True)
class TableRow:
    """A line of the report's table: every seed of one data set, depth and arm."""

    data: str
    network: str
    """What a person calls it: `plain-56`, `residual-56, 50 images`."""
    arm: str
    depth: int
    num_seeds: int
    num_failed: int
    params: int | None
    macs: int | None
    train_error_pct: SeedStats | None
    val_error_pct: SeedStats | None
    test_error_pct: SeedStats | None
    time_s: SeedStats | None
    steps_to: dict[int, tuple[float, int] | None]
    """Training error in % to the median step that reaches it and how many seeds do, or `None` where none does."""
    first_gradient: SeedStats | None
    """Gradient over weights of the median layer, at the first step."""
    steepest_gradient: SeedStats | None
    """That of the layer where it is largest."""
    movement: SeedStats | None
    """How far the median layer could move in the whole run, in units of its own length."""
    dead_relus_pct: SeedStats | None
    """Share of dead ReLUs at the last sample, in %."""
    residual_ratio: SeedStats | None
    """||F(x)|| over the norm of what the shortcut adds, at the last sample, mean over blocks; residual arms alone."""


def table_rows(runs: Sequence[Run]) -> list[TableRow]:
    """Return the table: one line for each data set and network, over its seeds."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.data, run.network), []).append(run)
    return [_line(group) for group in grouped.values()]


def _line(group: Sequence[Run]) -> TableRow:
    done = [run for run in group if run.status == "done"]
    ended = [run for run in group if run.status in ("done", "diverged")]
    counted = next((run.start for run in group if run.start), {})

    def over_seeds(quantity: str) -> SeedStats | None:
        return seed_stats([run.result[quantity] for run in done])

    return TableRow(
        data=group[0].data,
        network=group[0].network,
        arm=group[0].arm,
        depth=group[0].depth,
        num_seeds=len(done),
        num_failed=len(group) - len(done),
        params=counted.get("params"),
        macs=counted.get("macs"),
        train_error_pct=over_seeds("train_error_pct"),
        val_error_pct=over_seeds("val_error_pct"),
        test_error_pct=over_seeds("test_error_pct"),
        time_s=over_seeds("time_s"),
        steps_to={pct: _steps_to(done, pct) for pct in CONVERGENCE_PCT},
        first_gradient=seed_stats([first_gradient(run) for run in ended]),
        steepest_gradient=seed_stats([steepest_gradient(run) for run in ended]),
        movement=seed_stats([movement(run) for run in ended]),
        dead_relus_pct=seed_stats([dead_relus_pct(run) for run in ended]),
        residual_ratio=seed_stats([residual_ratio(run) for run in ended]),
    )


def _steps_to(runs: Sequence[Run], error_pct: float) -> tuple[float, int] | None:
    reached = sorted(step for run in runs if (step := first_step_at(run, error_pct)) is not None)
    return (reached[len(reached) // 2], len(reached)) if reached else None
