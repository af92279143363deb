"""Output of `resnetlab evaluate` for a network that gives an image several labels: a table of labels, or JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from resnetlab.cli.console import open_console
from resnetlab.cli.tables import table
from resnetlab.cli.terminal import print_json
from resnetlab.data.left_out import shorten
from resnetlab.evaluation.evaluate_multi_label import check_multi_label_evaluation, label_metrics, predict_member
from resnetlab.evaluation.evaluator import EnsembleMember
from resnetlab.evaluation.label_metrics import MultiLabelEvaluation
from resnetlab.evaluation.multi_label import LabelPredictions
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.evaluation.summary import describe_protocol, recalibration_notes, selection_notes
from resnetlab.system.process_group import ProcessGroup

NAME_WIDTH = 20
"""Characters of a label in the terminal."""
MAX_LABELS = 20
"""Labels in the terminal, the least precise first; --json has all."""


def evaluate_labels(
    members: Sequence[EnsembleMember], options: EvaluationOptions, process_group: ProcessGroup, *, json: bool
) -> int:
    """Evaluate an opened network; the first process prints the metrics.

    Raises:
        ConfigError: if there are several networks, or the options need one class an image.
    """
    check_multi_label_evaluation(options, len(members))
    labels = predict_member(members[0], options, process_group=process_group)
    if process_group.is_first:
        print_multi_label(members[0], labels, open_console(highlight=False), json=json)
    return 0


def print_multi_label(
    member: EnsembleMember, predictions: LabelPredictions, console: Console, *, json: bool = False
) -> None:
    """Print the metrics of a network on images with several labels."""
    evaluation = label_metrics(member, predictions)
    if json:
        print_json(_as_json(evaluation, member))
        return
    width, dataset = min(80, console.width), member.dataset
    split = "all images" if dataset.split_name == "all" else f"{dataset.split_name} split"
    console.print(f"{member.card.model.name} on {dataset.title}, {split}: {len(predictions):,} images", width=width)
    console.print()
    for name, value in (
        ("mean average precision", evaluation.mean_average_precision_pct),
        ("macro F1", evaluation.macro_f1_pct),
        ("micro F1", evaluation.micro_f1_pct),
    ):
        console.print(f"{name:<23} {_pct(value)} %")
    rate = evaluation.exact_match_error
    low, high = rate.interval_95_pct
    console.print(f"any label wrong         {rate.pct:6.2f} %   95 % interval {low:.2f} to {high:.2f}")
    console.print(f"chance                  {evaluation.chance_error_pct:6.2f} %   by the most frequent set of labels")
    _print_labels(evaluation, console)
    for note in notes(member):
        console.print(f"note: {note}", width=width)
    if left_out := _num_left_out(member, evaluation):
        console.print(f"left out, because they cannot be decoded: {left_out:,} images", width=width)


def notes(member: EnsembleMember) -> list[str]:
    """Return what a reader of the metrics must know."""
    found = list(member.dataset.warnings)
    fitted = member.card.multi_label
    if member.dataset.seen_in_training:
        found.append("the network was trained on some of these images: the metrics on new images are probably lower")
    if fitted and fitted.num_images and fitted.split == member.dataset.split_name:
        found.append("the thresholds were fitted on this split: F1 on new images is probably lower")
    return [*found, *recalibration_notes([member]), *selection_notes([member])]


def _print_labels(evaluation: MultiLabelEvaluation, console: Console) -> None:
    rows = sorted(evaluation.per_label, key=lambda row: (row.average_precision_pct is None, row.average_precision_pct))
    listing = table("label", "images", "AP %", "threshold", "precision %", "recall %", "F1 %")
    for row in rows[:MAX_LABELS]:
        values = (row.precision_pct, row.recall_pct, row.f1_pct)
        listing.add_row(
            shorten(row.name, NAME_WIDTH),
            f"{row.num_images:,}",
            _pct(row.average_precision_pct),
            f"{row.threshold:.3f}",
            *map(_pct, values),
        )
    console.print(listing)
    if len(rows) > MAX_LABELS:
        console.print(f"{len(rows) - MAX_LABELS:,} more labels with --json")


def _pct(value: float | None) -> str:
    return "     –" if value is None else f"{value:6.2f}"


def _as_json(evaluation: MultiLabelEvaluation, member: EnsembleMember) -> dict[str, Any]:
    return evaluation.as_json() | {
        "models": [str(member.file)],
        "backend": [member.computed_by],
        "temperature": [member.card.temperature],
        "data": member.dataset.title,
        "split": member.dataset.split_name,
        "protocol": describe_protocol([member], EvaluationOptions()),  # no other protocol is accepted
        "num_left_out": _num_left_out(member, evaluation),
        "left_out": list(member.dataset.skipped),
        "notes": notes(member),
    }


def _num_left_out(member: EnsembleMember, evaluation: MultiLabelEvaluation) -> int:
    """Return the number of images that cannot be decoded."""
    return len(member.dataset.skipped) + len(member.dataset.split) - evaluation.num_samples
