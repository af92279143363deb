"""Checks of `resnetlab evaluate` before it opens images, and before it changes a model file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.config import ConfigError
from resnetlab.serialization import check

if TYPE_CHECKING:
    from resnetlab.evaluation.options import EvaluationOptions

PAGE_SUFFIXES = (".html", ".htm")


def check_networks(
    files: Sequence[Path], options: "EvaluationOptions", *, page: Path | None, fit_temperature: bool
) -> None:
    """Raise unless the options fit the networks, as their cards describe them.

    Raises:
        ConfigError: if they do not.
    """
    from resnetlab.evaluation.evaluate_multi_label import check_multi_label_evaluation
    from resnetlab.evaluation.evaluator import check_network
    from resnetlab.inference.formats.exported_file import is_exported_file, read_exported_file
    from resnetlab.models.model_card import read_card

    for file in files:
        card = read_exported_file(file).card if is_exported_file(file) else read_card(file)
        if card.multi_label is not None:
            check_multi_label_evaluation(options, len(files))
            check(page is None, "--page is for one class an image; use --json for several labels")
            check(
                not fit_temperature,
                f"--fit-temperature is for one class an image, and {file} gives an image several labels; leave it out",
            )
        check_network(file, card, options)


def check_page(page: Path, files: Sequence[Path]) -> None:
    """Raise if the page cannot be written to a path, or would overwrite an evaluated file.

    Raises:
        ConfigError: in these cases; the message names an alternative.
    """
    if page.is_dir():
        raise ConfigError(f"--page {page} is a folder; name a file in it: {page / 'evaluation.html'}")
    parent = next((folder for folder in page.parents if folder.exists()), None)
    if parent is not None and not parent.is_dir():
        raise ConfigError(f"--page {page}: {parent} is a file, not a folder; name a file in a folder")
    if page.suffix.lower() not in PAGE_SUFFIXES:
        raise ConfigError(f"--page {page}: the page is an HTML file; name it {page.with_suffix('.html')}")
    if page.exists() and any(page.samefile(file) for file in files):
        raise ConfigError(f"--page {page} is an evaluated file, and would be overwritten; name another file")
