"""Records into tables, figures and one HTML file; a study can be redrawn on a laptop that never trained. No torch."""

import base64
import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from resnetlab import __version__
from resnetlab.config import ConfigError
from resnetlab.files import write_whole
from resnetlab.study.figures import draw
from resnetlab.study.results import RUNS, Run, read_runs
from resnetlab.study.spread import Spread, spread
from resnetlab.study.verdict import CONVERGENCE_PCT, depth_effects, first_step_at

TITLE = "Does depth help?"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the report's table: every seed of one data set, depth and arm."""

    data: str
    arm: str
    depth: int
    num_seeds: int
    num_failed: int
    params: int | None
    macs: int | None
    train_error_pct: Spread | None
    val_error_pct: Spread | None
    test_error_pct: Spread | None
    time_s: Spread | None
    steps_to: dict[int, tuple[float, int] | None]
    """Training error in % to the median step that reaches it and how many seeds do, or `None` where none does."""


def write_report(out: Path) -> dict[str, Any]:
    """Write `results.csv`, `results.json`, `figures/` and `report.html` from a study's run directories alone.

    Returns:
        What `results.json` holds.

    Raises:
        ConfigError: where there is no run in the folder, or a configuration is damaged.
        RecordError: where a record is damaged.
        OSError: where the folder cannot be written.
    """
    runs = read_runs(out)
    if not runs:
        raise ConfigError(f"{out}: no study here (no {RUNS}/ with runs); make one with: resnetlab study --out {out}")
    results = summarise(runs)
    write_whole(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_whole(out / "results.csv", table_csv(results["runs"]))
    drawn = draw(runs, out / "figures")
    pictures = {data: {form: svg.read_bytes() for form, svg in forms.items()} for data, forms in drawn.items()}
    write_whole(out / "report.html", page(runs, pictures))
    return results


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the numbers of a study as plain JSON values."""
    return {
        "runs": [run.row() for run in runs],
        "table": [dataclasses.asdict(line) for line in lines(runs)],
        "depth_effects": [
            {**dataclasses.asdict(effect), "interval_95": effect.interval, "verdict": effect.verdict,
             "sentence": effect.sentence}
            for effect in depth_effects(runs)
        ],
        "resnetlab": __version__,
    }  # fmt: skip


def lines(runs: Sequence[Run]) -> list[Line]:
    """Return the table: one line for each data set, depth and arm, over its seeds."""
    groups: dict[tuple[str, int, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, run.depth, run.arm), []).append(run)
    return [_line(group) for _, group in sorted(groups.items())]


def _line(group: Sequence[Run]) -> Line:
    done = [run for run in group if run.status == "done"]
    counted = next((run.start for run in group if run.start), {})

    def over_seeds(quantity: str) -> Spread | None:
        return spread([run.result[quantity] for run in done])

    return Line(
        data=group[0].data,
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
    )


def _steps_to(runs: Sequence[Run], error_pct: float) -> tuple[float, int] | None:
    reached = sorted(step for run in runs if (step := first_step_at(run, error_pct)) is not None)
    return (reached[len(reached) // 2], len(reached)) if reached else None


def table_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the runs as CSV, a line a run; empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def page(runs: Sequence[Run], pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """Return the report: one HTML file that holds its own pictures and fetches nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab.study", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    first = next((run for run in runs if run.start), None)
    return environment.get_template("report.html.j2").render(
        title=TITLE,
        runs=runs,
        lines=lines(runs),
        effects=depth_effects(runs),
        convergence=CONVERGENCE_PCT,
        figures={
            data: {form: base64.b64encode(svg).decode() for form, svg in forms.items()}
            for data, forms in pictures.items()
        },
        failures=[run for run in runs if run.status != "done"],
        start=first.start if first else {},
        recipe={name: value for name, value in dataclasses.asdict(runs[0].config.recipe).items() if value is not None},
        seeds=sorted({run.seed for run in runs}),
        version=__version__,
    )
