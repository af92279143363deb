"""The results of a study, read from its folder: tables, comparisons, verdicts and figures, also in a notebook."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from resnetlab.config import ConfigError
from resnetlab.serialization import check_type
from resnetlab.study.reports.report import StudyReport, write_report
from resnetlab.study.reports.report_table import TableRow
from resnetlab.study.results import Run, read_runs
from resnetlab.study.statistics.arm_comparisons import RULE, SPLITS, ArmComparison
from resnetlab.study.statistics.rankings import Ranking
from resnetlab.study.verdicts.verdict import Verdict, without_repetition


class Study:
    """The results of a study; `resnetlab.study` returns one, and `Study(folder)` reads one that exists.

    In a notebook it shows its table, rankings and verdicts.
    """

    def __init__(self, folder: Path | str) -> None:
        """Read the run directories of a study.

        Raises:
            ConfigError: if the folder has no run, is of the preset `everywhere`, or a configuration is damaged.
        """
        check_type("folder", folder, str | Path, example="'studies/digits'")
        self.folder = Path(folder)
        self.runs: list[Run] = read_runs(self.folder)
        if not self.runs:
            raise ConfigError(f"{folder}: no study here; make one with resnetlab.study(out={str(folder)!r})")
        if any(run.architecture for run in self.runs):
            raise ConfigError(
                f"{folder} is of the preset everywhere; its results are in {self.folder / 'results.json'}"
            )

    @cached_property
    def _report(self) -> StudyReport:
        return StudyReport(self.runs)

    @property
    def table(self) -> list[TableRow]:
        """Errors, parameters and times of each network, over seeds."""
        return self._report.rows

    @property
    def verdicts(self) -> list[Verdict]:
        """Verdicts on depth, for each arm and data set."""
        return self._report.verdicts

    @property
    def comparisons(self) -> list[ArmComparison]:
        """The difference of every two arms at equal depth."""
        return self._report.comparisons

    @property
    def rankings(self) -> list[Ranking]:
        """The arms in the order of their errors, with ties."""
        return self._report.rankings

    @property
    def arms(self) -> list[str]:
        """The arms that have ended runs, in the order of tables."""
        ended = {run.arm for run in self.runs if run.status in ("done", "diverged")}
        rows = sorted(self.table, key=lambda row: row.depth)
        return list(dict.fromkeys(row.arm for row in rows if row.arm in ended))

    def compare(
        self, first: str, second: str, *, split: str | None = None, depth: int | None = None, data: str | None = None
    ) -> ArmComparison:
        """Return the error of `second` minus that of `first`, seed by seed; p is corrected for all arms of the study.

        Args:
            first: The arm to compare with.
            second: The other arm.
            split: `train`, `val` or `test`; the test error if it was measured, else the validation error.
            depth: Layers of both networks; the deepest that both have if `None`.
            data: Data set; the first if `None`.

        Raises:
            ConfigError: if the study has no such comparison; the message gives those that it has.
        """
        splits = ("test", "val") if split is None else (split,)
        found = [
            comparison
            for comparison in self.comparisons
            if {comparison.first, comparison.second} == {first, second}
            and comparison.setting.split in splits
            and depth in (None, comparison.setting.depth)
            and data in (None, comparison.setting.data)
        ]
        if not found:
            pairs = dict.fromkeys(f"{c.first} and {c.second} at {c.setting.depth} layers" for c in self.comparisons)
            raise ConfigError(
                f"no comparison of {first} and {second}"
                f"{'' if depth is None else f' at {depth} layers'}{'' if split is None else f' on split {split}'}; "
                f"this study has: {', '.join(pairs) or 'none'}; splits: {', '.join(SPLITS)}"
            )
        on_data = [comparison for comparison in found if comparison.setting.data == found[0].setting.data]
        rank = {name: index for index, name in enumerate(splits)}
        best = max(on_data, key=lambda c: (c.setting.depth, c.setting.train_images is None, -rank[c.setting.split]))
        return best if best.first == first else _reversed(best)

    def plot(self, split: str | None = None) -> Figure:
        """Return a matplotlib figure: the error of each arm, and the differences with their intervals.

        Args:
            split: `train`, `val` or `test`; the test error if it was measured, else the validation error.

        Raises:
            ConfigError: if the study has no run that has ended, or no such split.
        """
        from resnetlab.study.figures.arm_comparisons import plot_comparisons

        return plot_comparisons(self._report.compared, self.comparisons, split)

    def write_report(self) -> Path:
        """Write `report.html`, tables and figures into the folder; return the path of the page."""
        write_report(self.folder)
        return self.folder / "report.html"

    def __repr__(self) -> str:
        seeds = len({run.seed for run in self.runs})
        depths = ", ".join(str(depth) for depth in sorted({run.depth for run in self.runs}))
        failed = sum(run.status not in ("done", "diverged") for run in self.runs)
        parts = [", ".join(self.arms) or "no run has ended", f"{depths} layers", f"{seeds} seed{'s' * (seeds != 1)}"]
        parts += [f"{failed} of {len(self.runs)} runs did not finish"] if failed else []
        return f"Study({str(self.folder)!r}: {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return the table, the rankings and the verdicts as HTML, for notebooks."""
        head = "".join(
            f"<th>{name}</th>" for name in ("network", *(f"{words}, %" for words in SPLITS.values()), "seeds")
        )
        body = "".join(_html_row(row) for row in self.table)
        sentences = [f"{ranking.setting.title}: {ranking.sentence}" for ranking in self.rankings]
        sentences += self._report.notes
        sentences += [f"{v.arm} on {v.data}: {v.kind}. {v.sentence}" for v in without_repetition(self.verdicts)]
        sentences += [RULE] if self.rankings else []
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + "".join(
            f"<p>{escape(sentence)}</p>" for sentence in sentences
        )


def _html_row(row: TableRow) -> str:
    errors: Sequence[object] = (row.train_error_pct, row.val_error_pct, row.test_error_pct)
    cells = [f"{row.data} · {row.network}", *(str(error or "–") for error in errors), str(row.num_seeds)]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _reversed(comparison: ArmComparison) -> ArmComparison:
    points = {seed: -point for seed, point in comparison.points.items()}
    return replace(comparison, first=comparison.second, second=comparison.first, points=points, mean=-comparison.mean)
