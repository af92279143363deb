"""Report of a study: `results.json`, `results.csv`, figures and one HTML page, made from run directories alone."""

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
from resnetlab.literature.ablations import published_ablations
from resnetlab.serialization import replace_non_finite
from resnetlab.study.arms import CAPPED, MAX_UPDATE
from resnetlab.study.comparable_runs import comparable_runs
from resnetlab.study.figures.all_figures import FIGURES, FigureFile, draw_figures
from resnetlab.study.identity_init import identity_init_results
from resnetlab.study.image_versions import first_of_each_version
from resnetlab.study.reports.chance_levels import chance_levels
from resnetlab.study.reports.published import comparison_columns, published_comparisons
from resnetlab.study.reports.report_table import CONVERGENCE_PCT, table_rows
from resnetlab.study.reports.run_notes import run_notes
from resnetlab.study.reports.table2 import tables_2
from resnetlab.study.results import RUNS, Run, read_runs
from resnetlab.study.statistics.arm_comparisons import RULE, SPLITS, arm_comparisons
from resnetlab.study.statistics.comparison_evidence import comparison_evidence
from resnetlab.study.statistics.paired_comparison import group_runs
from resnetlab.study.statistics.rankings import rankings
from resnetlab.study.statistics.seed_stats import SeedStats, two_figures
from resnetlab.study.verdicts.rules import LEARNT_RULE, RULES
from resnetlab.study.verdicts.verdict import verdicts, without_repetition
from resnetlab.system.atomic_files import write_atomic

TITLE = "Does depth help?"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet computes: names of data and messages of errors come from outside."""


def write_report(out: Path) -> dict[str, Any]:
    """Write `results.csv`, `results.json`, `figures/` and `report.html` from a study's run directories alone.

    A study with several arms gets `comparisons.csv` too.

    A study of other architectures has a page and keys of its own (`architecture_report`).

    Returns:
        The contents of `results.json`.

    Raises:
        ConfigError: if the folder has no run, or a configuration is damaged.
        RecordError: if a record is damaged.
        OSError: if the folder cannot be written.
    """
    runs = read_runs(out)
    if not runs:
        raise ConfigError(f"{out}: no study here (no {RUNS}/ with runs); make one with: resnetlab study --out {out}")
    if any(run.architecture for run in runs):
        from resnetlab.study.reports.architecture_report import (
            write_architecture_report,  # uses functions of this module
        )

        return write_architecture_report(out, runs)
    study = StudyReport(runs)
    results = study.as_json()
    write_atomic(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(out / "results.csv", render_csv(results["runs"]))
    if results["comparisons"]:
        write_atomic(out / "comparisons.csv", render_csv([comparison_cells(row) for row in results["comparisons"]]))
    write_atomic(out / "report.html", render_page(study, draw_figures(study.compared, out / "figures")))
    return results


class StudyReport:
    """All results of a study: table, verdicts, effects of depth, comparisons of arms and with published results."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        comparable = comparable_runs(runs)
        self.notes = [*comparable.notes, *run_notes(runs)]
        self.compared = runs = comparable.runs
        self.rows = table_rows(runs)
        self.chance = chance_levels(runs)
        self.verdicts = verdicts(runs)
        self.shown_verdicts = without_repetition(self.verdicts)
        self.effects = [effect for group in group_runs(runs) for effect in group.depth_effects()]
        self.comparisons = arm_comparisons(runs)
        self.rankings = rankings(runs, self.comparisons)
        self.comparison_evidence = comparison_evidence(runs, self.comparisons)
        compared_arms = {arm for comparison in self.comparisons for arm in (comparison.first, comparison.second)}
        self.published_ablations = published_ablations(compared_arms)
        self.identity_init = identity_init_results(runs)
        self.published = published_comparisons(runs)
        self.tables_2 = tables_2(runs)

    def as_json(self) -> dict[str, Any]:
        """Return `results.json` as plain JSON values; numbers that are not finite become `None`.

        The keys are stable, so that reports of different versions can be compared.
        """
        effects = [{**dataclasses.asdict(effect), "interval_95": effect.train.interval} for effect in self.effects]
        results = {
            "runs": [{**run.row(), **comparison_columns(run, self.published)} for run in self.runs],
            "table": [dataclasses.asdict(row) for row in self.rows],
            "chance": [level.as_json() for level in self.chance],
            "notes": self.notes,
            "findings": [dataclasses.asdict(verdict) for verdict in self.verdicts],
            "depth_effects": effects,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            "rankings": [ranking.as_json() for ranking in self.rankings],
            "comparison_evidence": [dataclasses.asdict(evidence) for evidence in self.comparison_evidence],
            "published_ablations": [
                {**dataclasses.asdict(ablation), "sentence": ablation.sentence} for ablation in self.published_ablations
            ],
            "constructions": [result.as_json() for result in self.identity_init],
            "published": [comparison.as_json() for comparison in self.published],
            "tables_2": [table.as_json() for table in self.tables_2],
            "resnetlab": __version__,
        }
        return replace_non_finite(results)


def render_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the runs as CSV with a header, one line for each run; unknown numbers are empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front; numbers stay numbers.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _neutral_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def comparison_cells(row: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison's row of `comparisons.csv`: differences by seed in one cell, the interval in two."""
    low, high = row["interval_95"] or (None, None)
    points = "; ".join(f"{seed}: {value:g}" for seed, value in row["points"].items())
    cells = {name: value for name, value in row.items() if name != "interval_95"}
    return {**cells, "points": points, "interval_95_low": low, "interval_95_high": high}


def _neutral_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(FORMULA_STARTS) else "") + value.replace("\r", " ")  # \r would end the row


def render_page(study: StudyReport, figures: Sequence[FigureFile]) -> str:
    """Return the report as one HTML page that embeds its figures and loads nothing else."""
    runs = study.runs
    has_capped = any(run.arm.endswith(CAPPED) for run in runs)
    return page_template("report.html.j2").render(
        title=TITLE,
        study=study,
        runs=runs,
        convergence=CONVERGENCE_PCT,
        figures={kind: [figure for figure in figures if figure.kind == kind] for kind in FIGURES},
        failures=[run for run in runs if run.status != "done"],
        first_runs=first_of_each_version(runs),
        recipe_of=recipe_of,
        capped_recipe=f"; arms ending in {CAPPED} also have max_update {MAX_UPDATE}" if has_capped else "",
        has_deepened=any(run.deepened_from is not None for run in runs),
        machines=machines(runs),
        versions=versions(runs),
        started=min((run.start["started"] for run in runs if run.start), default=None),
        several=len({run.data for run in runs}) > 1,
        seeds=sorted({run.seed for run in runs}),
        rules=RULES,
        comparison_rule=RULE,
        splits=SPLITS,
        learnt_rule=LEARNT_RULE,
        version=__version__,
    )


def page_template(name: str) -> jinja2.Template:
    """Return the template of a page in this folder; it escapes names."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["two_figures"] = _format_mean
    environment.filters["base64"] = lambda path: base64.b64encode(path.read_bytes()).decode()
    return environment.get_template(f"study/reports/{name}")


def recipe_of(run: Run) -> dict[str, str]:
    """Return the recipe's fields that are set, as words; a control arm's limit is named beside them."""
    recipe = dataclasses.asdict(run.config.recipe)
    words: dict[str, str] = {}
    for name, value in recipe.items():
        if name == "max_update" and run.arm.endswith(CAPPED):
            continue
        if isinstance(value, bool):
            words[name] = "yes" if value else "no"
        elif isinstance(value, list | tuple):
            words[name] = ", ".join(map(str, value))
        elif value is not None:
            words[name] = str(value)
    return {name: text for name, text in words.items() if text}


def machines(runs: Sequence[Run]) -> list[str]:
    """Return every machine that trained a run, with its threads for each run, in the order of the runs."""
    words = []
    for machine in (run.start["machine"] for run in runs if run.start):
        threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)} per run on {machine['device']}"
        words.append(f"{machine['name']}, {machine['cores']} cores, {machine['system']}; {threads}")
    return list(dict.fromkeys(words))


def versions(runs: Sequence[Run]) -> list[str]:
    """Return the versions of the packages with which runs were made, each distinct set once."""
    sets = [run.start.get("versions", {}) for run in runs if run.start]
    return list(dict.fromkeys(", ".join(f"{name} {version}" for name, version in found.items()) for found in sets))


def _format_mean(stats: SeedStats | None) -> str:
    return two_figures(stats.mean) if stats else "–"
