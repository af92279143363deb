"""Report of the preset `everywhere`: effects of the addition on each architecture, made from run directories alone."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnetlab import __version__
from resnetlab.config import ConfigError
from resnetlab.serialization import replace_non_finite
from resnetlab.study.architectures.architecture_effects import OUTCOMES, RULE, architecture_effects, missing_evidence
from resnetlab.study.architectures.architecture_grid import ARCHITECTURE_SETTINGS, ArchitectureGrid
from resnetlab.study.comparable_runs import comparable_runs
from resnetlab.study.figures.all_figures import FigureFile
from resnetlab.study.figures.architectures import draw_architectures
from resnetlab.study.image_versions import first_of_each_version
from resnetlab.study.reports.chance_levels import chance_levels
from resnetlab.study.reports.report import comparison_cells, machines, page_template, recipe_of, render_csv, versions
from resnetlab.study.reports.report_table import table_rows
from resnetlab.study.reports.run_notes import run_notes
from resnetlab.study.results import Run
from resnetlab.study.statistics.arm_comparisons import SPLITS
from resnetlab.system.atomic_files import write_atomic

TITLE = "Does the addition help elsewhere?"


def write_architecture_report(out: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Write `results.csv`, `comparisons.csv`, `results.json`, `figures/` and `report.html`; return `results.json`.

    Raises:
        ConfigError: if some runs are of ResNets.
        OSError: if the folder cannot be written.
    """
    others = [run.directory.name for run in runs if run.architecture is None]
    if others:
        raise ConfigError(f"{out} holds runs of the preset everywhere and of ResNets ({others[0]}); move one kind away")
    report = ArchitectureReport(out, runs)
    results = report.as_json()
    write_atomic(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(out / "results.csv", render_csv(results["runs"]))
    if results["comparisons"]:
        write_atomic(out / "comparisons.csv", render_csv([comparison_cells(row) for row in results["comparisons"]]))
    write_atomic(out / "report.html", report.page(draw_architectures(report.compared, out / "figures")))
    return results


class ArchitectureReport:
    """All results of the preset: table, effects, chance level, and the evidence that ties lack."""

    def __init__(self, out: Path, runs: Sequence[Run]) -> None:
        self.runs = runs
        comparable = comparable_runs(runs)
        self.notes = [*comparable.notes, *run_notes(runs)]
        self.compared = runs = comparable.runs
        self.rows = table_rows(runs)
        self.chance = chance_levels(runs)
        self.effects = architecture_effects(runs)
        self.missing = missing_evidence(self.effects, str(out), *ArchitectureGrid.options_of(runs[0]))

    def as_json(self) -> dict[str, Any]:
        """Return `results.json` as plain JSON values; its keys are stable between versions."""
        comparisons = [
            {"architecture": effect.architecture, **comparison.as_json()}
            for effect in self.effects
            for comparison in effect.comparisons
        ]
        results = {
            "runs": [{"architecture": run.architecture, **run.row()} for run in self.runs],
            "table": [dataclasses.asdict(row) for row in self.rows],
            "chance": [level.as_json() for level in self.chance],
            "notes": self.notes,
            "architectures": [effect.as_json() for effect in self.effects],
            "comparisons": comparisons,
            "missing_evidence": self.missing and {"sentence": self.missing[0], "command": self.missing[1]},
            "resnetlab": __version__,
        }
        return replace_non_finite(results)

    def page(self, figures: Sequence[FigureFile]) -> str:
        """Return the report as one HTML page that embeds its figures and loads nothing else."""
        first = {name: next((run for run in self.runs if run.architecture == name), None) for name in self._names()}
        return page_template("architectures.html.j2").render(
            title=TITLE,
            report=self,
            names=self._names(),
            settings=ARCHITECTURE_SETTINGS,
            outcomes=OUTCOMES,
            figures={figure.kind: figure for figure in figures},
            recipes={name: recipe_of(run) for name, run in first.items() if run},
            failures=[run for run in self.runs if run.status != "done"],
            first_runs=first_of_each_version(self.runs),
            versions=versions(self.runs),
            machines=machines(self.runs),
            started=min((run.start["started"] for run in self.runs if run.start), default=None),
            seeds=sorted({run.seed for run in self.runs}),
            rule=RULE,
            splits=SPLITS,
            version=__version__,
        )

    def _names(self) -> list[str]:
        """Return the architectures that have runs, in the order of the report."""
        return [name for name in ARCHITECTURE_SETTINGS if any(run.architecture == name for run in self.runs)]
