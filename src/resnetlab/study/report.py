"""Records into tables, figures and one HTML file; a study can be redrawn on a laptop that never trained. No torch."""

import base64
import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from resnetlab import __version__
from resnetlab.config import ConfigError
from resnetlab.study.figures.all_figures import KINDS, FigureFile, draw_figures
from resnetlab.study.identity_init import identity_init_results
from resnetlab.study.paired_comparison import group_runs
from resnetlab.study.published import comparison_columns, published_comparisons
from resnetlab.study.results import RUNS, Run, read_runs
from resnetlab.study.rules import LEARNT, RULES
from resnetlab.study.seed_stats import two_figures
from resnetlab.study.table import CONVERGENCE_PCT, table_rows
from resnetlab.study.verdict import verdicts
from resnetlab.system.atomic_files import write_atomic
from resnetlab.training.record import replace_non_finite

TITLE = "Does depth help?"


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
    study = StudyReport(runs)
    results = study.as_json()
    write_atomic(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(out / "results.csv", table_csv(results["runs"]))
    write_atomic(out / "report.html", render_page(study, draw_figures(runs, out / "figures")))
    return results


class StudyReport:
    """Everything a report says of some runs, worked out once."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.lines = table_rows(runs)
        self.findings = verdicts(runs)
        self.effects = [effect for group in group_runs(runs) for effect in group.effects()]
        self.constructions = identity_init_results(runs)
        self.published = published_comparisons(runs)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values, `None` for those that are not finite."""
        effects = [{**dataclasses.asdict(effect), "interval_95": effect.train.interval} for effect in self.effects]
        beside = [
            {
                **dataclasses.asdict(one),
                "difference_points": one.difference_points,
                "inside": one.inside,
                "deviations": one.deviations,
                "is_reproduction": one.is_reproduction,
                "sentence": one.sentence,
            }
            for one in self.published
        ]
        everything = {
            "runs": [{**run.row(), **comparison_columns(run, self.published)} for run in self.runs],
            "table": [dataclasses.asdict(line) for line in self.lines],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "depth_effects": effects,
            "constructions": [dataclasses.asdict(one) | {"sentence": one.sentence} for one in self.constructions],
            "published": beside,
            "resnetlab": __version__,
        }
        return replace_non_finite(everything)


def table_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the runs as CSV, a line a run; empty where there is no number."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def render_page(study: StudyReport, pictures: Sequence[FigureFile]) -> str:
    """Return the report: one HTML file that holds its own pictures and fetches nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["few"] = lambda spread: two_figures(spread.mean) if spread else "–"
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    runs = study.runs
    begun = {run.source: run for run in reversed(runs) if run.start}
    return environment.get_template("study/report.html.j2").render(
        title=TITLE,
        study=study,
        runs=runs,
        convergence=CONVERGENCE_PCT,
        pictures={kind: [one for one in pictures if one.kind == kind] for kind in KINDS},
        failures=[run for run in runs if run.status != "done"],
        begun=dict(reversed(begun.items())),
        recipe_of=lambda run: {k: v for k, v in dataclasses.asdict(run.config.recipe).items() if v is not None},
        several=len({run.data for run in runs}) > 1,
        seeds=sorted({run.seed for run in runs}),
        rules=RULES,
        learnt=LEARNT,
        version=__version__,
    )
