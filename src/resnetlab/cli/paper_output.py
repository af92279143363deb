"""`resnetlab models --paper`: the published numbers, first those of the question whether depth helps."""

import textwrap
from collections.abc import Sequence
from typing import Any

from resnetlab.cli.terminal import print_json
from resnetlab.config import ConfigError
from resnetlab.extension import did_you_mean
from resnetlab.literature.paper import PUBLISHED
from resnetlab.literature.protocol import PublishedResult
from resnetlab.literature.reproductions import REPRODUCTIONS

WIDTH = 80
DEPTHS, DEPTH_TABLE = (18, 34), "Table 2"
TITLES = {
    "Table 3": "ImageNet, shortcuts and depths: error in %",
    "Table 4": "ImageNet, single models: error in %",
    "Table 5": "ImageNet, ensembles: error in %",
    "Table 6": "CIFAR-10: test error in %",
    "Figure 6": "CIFAR-10, a deep plain network: test error in %",
    "Table 7": "Object detection on PASCAL VOC: mAP in %",
    "Table 8": "Object detection on COCO: mAP in %",
}
SIZES = ("params", "macs")
"""Quantities that the catalogue has; all others are in %."""


def print_paper(name: str | None, *, json: bool) -> None:
    """Print the paper's tables and the reproductions, or those numbers of them that are of one network.

    Raises:
        ConfigError: if nothing is published about the network.
    """
    published = [cell for cell in (*PUBLISHED, *REPRODUCTIONS) if cell.quantity not in SIZES]
    cells = [cell for cell in published if name is None or _is_of(cell, name)]
    if not cells:
        known = sorted({cell.network for cell in published})
        raise ConfigError(f"no error of {name!r} is published{did_you_mean(name or '', known)}")
    if json:
        print_json({"published": [_to_json(cell) for cell in cells]})
        return
    if name is None:
        _print_depth_table()
        cells = [cell for cell in cells if cell.table != DEPTH_TABLE]
    for reference in dict.fromkeys(cell.table for cell in cells if cell.source == "paper"):
        _print_table(reference, [cell for cell in cells if cell.source == "paper" and cell.table == reference])
    _print_reproductions([cell for cell in cells if cell.source != "paper"])


def _is_of(cell: PublishedResult, name: str) -> bool:
    """Return whether a number is of this network, with any shortcut if the name has no letter."""
    return cell.network == name or cell.network.rpartition("-")[0] == name


def _print_depth_table() -> None:
    """Print the top-1 errors of plain and residual networks of 18 and 34 layers (Table 2)."""
    from rich.console import Console

    from resnetlab.cli.tables import table

    found = {cell.network: cell for cell in PUBLISHED if cell.table == DEPTH_TABLE}
    plain, residual = ([found[f"{arm.format(depth)}"] for depth in DEPTHS] for arm in ("plain{}", "resnet{}-A"))
    print(f"Does depth help? Top-1 error in % on ImageNet validation, 10 crops ({DEPTH_TABLE})\n")
    listing = table("layers", "plain", "ResNet")
    for depth, without, with_shortcut in zip(DEPTHS, plain, residual, strict=True):
        listing.add_row(str(depth), f"{without.value:.2f}", f"{with_shortcut.value:.2f}")
    Console(markup=False).print(listing)
    worse, better = plain[1].value - plain[0].value, residual[0].value - residual[1].value
    _print_wrapped(
        f"16 more layers make the plain network {worse:.2f} points worse and the residual one {better:.2f} points "
        "better. Both have the same parameters: the shortcuts are option A."
    )
    print()


def _print_table(reference: str, cells: Sequence[PublishedResult]) -> None:
    from rich.console import Console

    from resnetlab.cli.tables import table

    columns = sorted(dict.fromkeys(cell.column for cell in cells))  # top-1 before top-5, mean before best
    columns.sort(key=lambda column: "best" in column)
    protocols = list(dict.fromkeys(cell.protocol.description for cell in cells))
    listing = table(reference, *columns, *(["by"] if len(protocols) > 1 else []))
    for network, protocol in dict.fromkeys((cell.network, cell.protocol.description) for cell in cells):
        row = {cell.column: cell for cell in cells if (cell.network, cell.protocol.description) == (network, protocol)}
        number = [f"({protocols.index(protocol) + 1})"] if len(protocols) > 1 else []
        listing.add_row(network, *(_format(row[column]) if column in row else "" for column in columns), *number)
    print(TITLES.get(reference, ""))
    Console(markup=False).print(listing)
    for number, protocol in enumerate(protocols, start=1):
        _print_wrapped(f"({number}) {protocol}" if len(protocols) > 1 else protocol)
    print()


def _print_reproductions(cells: Sequence[PublishedResult]) -> None:
    from rich.console import Console

    from resnetlab.cli.tables import table

    if not cells:
        return
    listing = table("other sources", "error %", "±", "runs", "source")
    for cell in cells:
        quantity = {"top1_error_pct": " (top-1)", "top5_error_pct": " (top-5)"}.get(cell.quantity, "")
        listing.add_row(
            f"{cell.network}{quantity}",
            _format(cell),
            "" if cell.std is None else f"{cell.std:.2f}",
            "" if cell.num_runs is None else str(cell.num_runs),
            cell.source,
        )
    Console(markup=False).print(listing)
    _print_wrapped("Each by a protocol of its own, which --json describes; the report of a study says what differs.")


def _format(cell: PublishedResult) -> str:
    return f"{'> ' if cell.is_lower_bound else ''}{cell.value:.2f}"


def _print_wrapped(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


def _to_json(cell: PublishedResult) -> dict[str, Any]:
    return {
        "network": cell.network,
        "quantity": cell.quantity,
        "value": cell.value,
        "is_lower_bound": cell.is_lower_bound,
        "std": cell.std,
        "num_runs": cell.num_runs,
        "source": cell.source,
        "table": cell.table,
        "column": cell.column,
        "protocol": cell.protocol.description,
    }
