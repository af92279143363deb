r"""Write the tables and figures of README.md and docs/results.md again, from the records in docs/results.

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; NAME is one of `result_tables.TABLES`.
`make results` runs this. With --check nothing is written, and the exit status is 1 if a page differs from the records.

    python benchmarks/results.py
    python benchmarks/results.py --curves studies/digits --name default-study   # the record of a figure, from a study
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from records import RECORDS, ROOT
from result_tables import TABLES

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
BLOCK = re.compile(r"(<!-- results: (?P<name>[\w-]+) -->\n+)(?:(?!<!--).)*?(\n*<!-- end of results -->)", re.DOTALL)
FIGURES = ROOT / "docs" / "images"
CURVES = "-curves.json"
"""Ending of the record of a figure: the curves of a study's runs."""
DIGITS = 4
"""Significant digits of a stored point of a curve: a figure shows fewer."""


def main() -> int:
    """Write or check the pages and the figure; return 1 if --check finds a difference."""
    parser = argparse.ArgumentParser(description="write the tables and figures of the results again, from records")
    parser.add_argument("--check", action="store_true", help="write nothing; compare the pages with the records")
    parser.add_argument("--curves", type=Path, help="folder of a study, whose curves become the record of a figure")
    parser.add_argument("--name", default="default-study", help="name of that figure")
    options = parser.parse_args()
    if options.curves:
        write_curves(options.curves, RECORDS / f"{options.name}{CURVES}")
    differing = [page for page in PAGES if page.read_text() != written(page.read_text())]
    for page in differing:
        print(f"{page.relative_to(ROOT)}: {'differs from the records' if options.check else 'written'}")
        if not options.check:
            page.write_text(written(page.read_text()))
    if not options.check:
        for record in sorted(RECORDS.glob(f"*{CURVES}")):
            draw(record, FIGURES / f"{record.name.removesuffix(CURVES)}.png")
    return int(options.check and bool(differing))


def written(text: str) -> str:
    """Return a page with every table computed from the records; a line divides an empty one from its end."""

    def block(found: re.Match[str]) -> str:
        end = found[3] if found[3].startswith("\n") else f"\n\n{found[3]}"
        return f"{found[1]}{TABLES[found['name']]()}{end}"

    return BLOCK.sub(block, text)


def write_curves(study: Path, record: Path) -> None:
    """Store the curves of a study's runs, and what else a figure needs."""
    from resnetlab.study.results import read_runs

    stored = [
        {
            "run": run.directory.name,
            "network": run.config.model.name,
            "data": run.config.data.name,
            "recipe": run.config.recipe.name,
            "max_update": run.config.recipe.max_update,
            "seed": run.config.seed,
            "epochs": [
                {
                    "step": epoch["step"],
                    "val_error_pct": rounded(epoch["val_error_pct"]),
                    "curve": {key: [rounded(value) for value in values] for key, values in epoch["curve"].items()},
                }
                for epoch in run.epochs
            ],
        }
        for run in read_runs(study)
        if not run.is_from_file and run.status in ("done", "diverged")
    ]
    record.write_text("[\n" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in stored) + "\n]\n")


def stored_curves(record: Path) -> list[dict[str, Any]]:
    """Return the record of a figure: each run's network and curves."""
    return json.loads(record.read_text())


def rounded(value: float | None) -> float | None:
    """Return a number with a few significant digits."""
    return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def draw(record: Path, path: Path) -> None:
    """Draw the error curves of a study, as its report does."""
    import matplotlib as mpl

    from resnetlab.config import DataConfig, RunConfig
    from resnetlab.figure_style import STYLE
    from resnetlab.fonts import text_style
    from resnetlab.models.zoo import model_config
    from resnetlab.study.figures.curves import plot_error_curves
    from resnetlab.study.results import Run
    from resnetlab.training.recipes import recipe

    stored = stored_curves(record)
    runs = [
        Run(
            directory=Path(run["run"]),
            config=RunConfig(
                model_config(f"{run['network']}-cifar"),
                DataConfig(run["data"]),
                recipe(run["recipe"], max_update=run["max_update"]),
                seed=run["seed"],
            ),
            status="done",
            start={},
            epochs=tuple(run["epochs"]),
            result={},
        )
        for run in stored
    ]
    with mpl.rc_context({**STYLE, **text_style([runs[0].data_label])}):
        figure = plot_error_curves(runs, False)
        assert figure is not None
        figure.savefig(path, dpi=160)


if __name__ == "__main__":
    sys.exit(main())
