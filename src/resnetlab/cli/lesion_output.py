"""Terminal output of `resnetlab lesion`: errors without blocks, in other orders, and gradients by path length."""

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from resnetlab.cli.tables import table
from resnetlab.study.statistics.seed_stats import two_figures

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.evaluation.lesions.lesion import LesionResult
    from resnetlab.evaluation.lesions.lesion_models import EvaluatedImages

MAX_COLUMNS = 4
"""Networks beside each other in a table; more would not fit 80 columns."""

SHOWN_COUNTS = (2, 3, 5, 7, 10)
"""Numbers of removed blocks and of swaps in the table, and the largest one; JSON and figures have all."""


def print_lesions(
    results: "Sequence[LesionResult]", labels: Sequence[str], images: "EvaluatedImages", *, console: "Console"
) -> None:
    """Print the errors of the networks side by side."""
    width = min(80, console.width)
    shown = results[0].num_images
    part = f"{shown:,}" if shown == images.num_available else f"{shown:,} of {images.num_available:,}"
    console.print(f"{images.title}, {images.split} split: {part} images; top-1 errors in %", width=width)
    for start in range(0, len(results), MAX_COLUMNS):
        group = slice(start, start + MAX_COLUMNS)
        console.print()
        _print_errors(results[group], labels[group], console)
    for result, label in zip(results, labels, strict=True):
        if not result.has_learnt:
            console.print(
                f"note: {label} errs on {result.error_pct:.1f} % with all its blocks, and a constant guess on "
                f"{result.chance_error_pct:.1f} %: it has little to lose",
                width=width,
            )
        if result.is_plain and any(not block.keeps_shape for block in result.without_block):
            console.print(
                f"note: {label} is plain: where a removed block changes the shape, option A's padding takes its place",
                width=width,
            )
    _print_paths(results, labels, console)


def _print_errors(results: "Sequence[LesionResult]", labels: Sequence[str], console: "Console") -> None:
    rows = table("network", *labels)
    rows.add_row("whole", *(f"{result.error_pct:.1f}" for result in results))
    stages = dict.fromkeys(block.block.partition(".")[0] for result in results for block in result.without_block)
    for stage in stages:
        cells = []
        for result in results:
            errors = [b.error_pct for b in result.without_block if b.block.partition(".")[0] == stage]
            cells.append(_range(errors))
        rows.add_row(f"one block of {stage} removed", *cells)
    most = [max(result.without_block, key=lambda block: block.error_pct) for result in results]
    rows.add_row("the worst of these", *(block.block for block in most))
    for count in _shown(len(removal.blocks) for result in results for removal in result.without_blocks):
        errors = [[r.error_pct for r in result.without_blocks if len(r.blocks) == count] for result in results]
        rows.add_row(f"{count} random blocks removed", *(_mean(values) for values in errors))
    for number in _shown(order.num_swaps for result in results for order in result.reordered):
        errors = [[o.error_pct for o in result.reordered if o.num_swaps == number] for result in results]
        rows.add_row(f"{number} swaps of two blocks", *(_mean(values) for values in errors))
    console.print(rows)


def _print_paths(results: "Sequence[LesionResult]", labels: Sequence[str], console: "Console") -> None:
    """Print the paths of each network, and the lengths that carry its gradient."""
    rows = table("paths", "blocks", "most paths", "95 % of gradient", "mean", "one of 1", "of n/2")
    for result, label in zip(results, labels, strict=True):
        if result.is_plain:
            blocks = len(result.without_block)
            rows.add_row(label, str(blocks), f"one, of {blocks}", "", "", "", "")
        elif result.paths is not None:
            paths = result.paths
            low, high = paths.effective_range()
            rows.add_row(
                label,
                str(paths.num_blocks),
                f"of {paths.num_blocks // 2}",
                f"{low} to {high}",
                f"{paths.mean_length:.1f}",
                two_figures(paths.gradient_norm[min(1, paths.num_blocks)]),
                two_figures(paths.gradient_norm[paths.num_blocks // 2]),
            )
    if not rows.row_count:
        return
    console.print()
    console.print(rows)
    console.print(
        "path lengths: of most paths, of those that carry 95 % of the gradient at the first block, and their mean; "
        "last: the norm of the gradient along one path of length 1 and n/2",
        style="dim",
        width=min(80, console.width),
    )


def _shown(counts: Iterable[int]) -> list[int]:
    """Return the counts in the table, from 2 on: one block and one swap are single changes."""
    known = sorted(set(counts))
    return [count for count in known if count in SHOWN_COUNTS or (count > 1 and count == known[-1])]


def _range(errors: Sequence[float]) -> str:
    if not errors:
        return "–"
    low, high = f"{min(errors):.1f}", f"{max(errors):.1f}"
    return low if low == high else f"{low}–{high}"


def _mean(errors: Sequence[float]) -> str:
    return f"{statistics.fmean(errors):.1f}" if errors else "–"
