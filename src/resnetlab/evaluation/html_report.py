"""HTML report of an evaluation: one file with metrics, figures and thumbnails, without external resources."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import jinja2
import numpy as np

from resnetlab import __version__
from resnetlab.evaluation.chance import NO_BETTER_THAN_CHANCE
from resnetlab.evaluation.figures import MAX_CLASSES, draw_figures, thumbnail
from resnetlab.evaluation.metrics import Evaluation
from resnetlab.evaluation.summary import EvaluationSummary
from resnetlab.system.atomic_files import write_atomic

MAX_OPEN_CLASSES = 30
"""Maximum number of classes for which the class table is open; a longer table is collapsed."""

MAX_CONFUSIONS = 12
"""Maximum number of confusions in the table."""

MAX_LEFT_OUT = 20
"""Maximum number of undecodable images in the list."""

Item = TypeVar("Item")


def write_page(
    path: Path,
    evaluation: Evaluation,
    summary: EvaluationSummary,
    *,
    thumbnails: Sequence[np.ndarray] = (),
    label_error_thumbnails: Sequence[np.ndarray] = (),
) -> None:
    """Write the HTML page atomically.

    Args:
        path: The HTML file.
        evaluation: The metrics.
        summary: What was evaluated, on which data, and how.
        thumbnails: The image of each of `evaluation.mistakes`, in order: uint8, shape (height, width, 1 or 3), of any
            size; empty for a page without images.
        label_error_thumbnails: The same for the examples of `evaluation.label_errors`.

    Raises:
        OSError: if the folder is not writable; an existing file stays unchanged.
        ValueError: if there are images, or names, for only some of the mistakes.
    """
    page = render_page(evaluation, summary, thumbnails=thumbnails, label_error_thumbnails=label_error_thumbnails)
    write_atomic(path, page.encode(errors="replace"))  # file names need not be valid Unicode


def render_page(
    evaluation: Evaluation,
    summary: EvaluationSummary,
    *,
    thumbnails: Sequence[np.ndarray] = (),
    label_error_thumbnails: Sequence[np.ndarray] = (),
) -> str:
    """Return the HTML page; arguments and errors are those of `write_page`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pct"] = lambda value: f"{value:.2f}"
    environment.filters["confidence"] = format_confidence
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    examples = evaluation.label_errors.examples if evaluation.label_errors else ()
    return environment.get_template("evaluation/html_report.html.j2").render(
        evaluation=evaluation,
        summary=summary,
        figures=draw_figures(evaluation),
        mistakes=_with_images(evaluation.mistakes, thumbnails, summary.mistake_names, "mistakes"),
        label_errors=_with_images(examples, label_error_thumbnails, summary.label_error_names, "label errors"),
        # confusions are in descending order, so the first of each class comes last here and wins
        most_confused={confusion.true: confusion for confusion in reversed(evaluation.confusions)},
        max_classes=MAX_CLASSES,
        max_open_classes=MAX_OPEN_CLASSES,
        max_confusions=MAX_CONFUSIONS,
        max_left_out=MAX_LEFT_OUT,
        no_better_than_chance=NO_BETTER_THAN_CHANCE,
        version=__version__,
    )


def format_confidence(confidence: float) -> str:
    """Return a confidence in %; only exactly 1 is printed as 100 %."""
    text = "> 99 %" if 0.995 <= confidence < 1 else f"{100 * confidence:.0f} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _with_images(
    items: Sequence[Item], thumbnails: Sequence[np.ndarray], names: Sequence[str], noun: str
) -> list[tuple[Item, bytes | None, str | None]]:
    """Return each item with its thumbnail as PNG and its name; `None` where the page shows none."""
    for given, argument in ((thumbnails, "thumbnails"), (names, "names")):
        if len(given) not in (0, len(items)):
            raise ValueError(f"{len(given)} {argument} for {len(items)} {noun}; give one for each, or none")
    images = [thumbnail(image) for image in thumbnails] or [None] * len(items)
    return list(zip(items, images, names or [None] * len(items), strict=True))
