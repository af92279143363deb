"""An evaluation as one HTML file: numbers, figures, images. It fetches nothing. No torch here."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jinja2
import numpy as np

from resnetlab import __version__
from resnetlab.evaluation.figures import draw_figures, thumbnail
from resnetlab.evaluation.metrics import Evaluation
from resnetlab.system.atomic_files import write_atomic

OPEN = 30
"""Up to so many classes their table is open; a longer one is folded."""

PAIRS = 12
"""So many of the most frequent confusions are listed."""

NAMED = 20
"""So many of the images left out are named."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class EvaluationSummary:
    """What a page says beside the numbers: what was judged, on what, and how."""

    title: str
    models: tuple[str, ...]
    """Names of the networks; several were judged together."""
    files: tuple[str, ...]
    """Their model files, in the same order."""
    data: str
    split: str
    protocol: str
    """In words: `the single view`, `ten crops at 224, 256 pixels`."""
    command: str
    """What makes the page again."""
    computed_by: tuple[str, ...] = ()
    """Of each network, the runtime and what it computed in: `torch fp32`."""
    notes: tuple[str, ...] = ()
    """Warnings, each a sentence; they stand below the headline."""
    num_left_out: int = 0
    """Images that cannot be read."""
    left_out: tuple[str, ...] = ()
    """Some or all of these, each as `NAME: REASON`."""
    provenance: tuple[tuple[str, str], ...] = ()
    """Further lines on the networks, each a term and its words: recipe, seed, versions."""
    mistake_names: tuple[str, ...] = ()
    """File or row of each mistake of the evaluation, in order; empty where that says nothing."""


def write_page(path: Path, evaluation: Evaluation, facts: EvaluationSummary, thumbnails: Sequence[np.ndarray]) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The HTML file.
        evaluation: The numbers.
        facts: What was judged.
        thumbnails: The image of each of `evaluation.mistakes`, in order, uint8 of shape (height, width, 1 or 3) and of
            any size; empty for a page without images.

    Raises:
        OSError: where the folder cannot be written; an old file is untouched.
        ValueError: where there are images, or names, for some of the mistakes alone.
    """
    write_atomic(
        path, render_page(evaluation, facts, thumbnails).encode(errors="replace")
    )  # names of files may be no Unicode


def render_page(evaluation: Evaluation, facts: EvaluationSummary, thumbnails: Sequence[np.ndarray]) -> str:
    """Return the page; see `write_page`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnetlab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pct"] = lambda value: f"{value:.2f}"
    environment.filters["sure"] = format_confidence
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    pictures = _one_each([thumbnail(image) for image in thumbnails], evaluation, "thumbnails")
    names = _one_each(facts.mistake_names, evaluation, "mistake_names")
    return environment.get_template("evaluation/html_report.html.j2").render(
        evaluation=evaluation,
        facts=facts,
        figures=draw_figures(evaluation),
        mistakes=list(zip(evaluation.mistakes, pictures, names, strict=True)),
        taken_for={one.true: one for one in reversed(evaluation.confusions)},  # of each class the most frequent
        open_up_to=OPEN,
        num_pairs=PAIRS,
        num_named=NAMED,
        version=__version__,
    )


def format_confidence(confidence: float) -> str:
    """Return a confidence as people write it; only what is certain is 100 %."""
    words = "> 99 %" if 0.995 <= confidence < 1 else f"{100 * confidence:.0f} %"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _one_each(items: Sequence[Item], evaluation: Evaluation, what: str) -> Sequence[Item | None]:
    count = len(evaluation.mistakes)
    if len(items) not in (0, count):
        raise ValueError(f"{len(items)} {what} for {count} mistakes; give one for each, or none")
    return items or [None] * count
