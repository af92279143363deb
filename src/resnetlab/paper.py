"""Every published figure we compare with: number, table, column, protocol. No torch here.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385 (2015).
"FLOPs" in the paper are multiply-adds; we say MACs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One published number.

    `value` is in the unit of `quantity`; `where` names the table or section; `protocol` says how it was measured.
    """

    network: str
    quantity: str
    value: float
    where: str
    protocol: str


def _cells(quantity: str, where: str, protocol: str, values: dict[str, float]) -> tuple[Cell, ...]:
    return tuple(Cell(network, quantity, value, where, protocol) for network, value in values.items())


CIFAR_PROTOCOL = "CIFAR-10 test, single view, trained on 45k, 64k steps of batch 128"
TEN_CROP = "ImageNet validation, 10-crop"

LEDGER: tuple[Cell, ...] = (
    *_cells(
        "macs",
        "Table 1",
        "224x224, as printed: 'FLOPs'",
        {
            "plain18": 1.8e9,
            "plain34": 3.6e9,
            "resnet18": 1.8e9,
            "resnet34": 3.6e9,
            "resnet50-v1": 3.8e9,
            "resnet101-v1": 7.6e9,
            "resnet152-v1": 11.3e9,
        },
    ),
    *_cells(
        "params",
        "Table 6",
        "as printed, in millions with two or three figures",
        {
            "resnet20": 0.27e6,
            "resnet32": 0.46e6,
            "resnet44": 0.66e6,
            "resnet56": 0.85e6,
            "resnet110": 1.7e6,
            "resnet1202": 19.4e6,
        },
    ),
    *_cells(
        "top1_error_pct",
        "Table 2",
        TEN_CROP,
        {
            "plain18": 27.94,
            "resnet18-A": 27.88,
            "plain34": 28.54,
            "resnet34-A": 25.03,
        },
    ),
    *_cells(
        "test_error_pct",
        "Table 6",
        CIFAR_PROTOCOL,
        {
            "resnet20": 8.75,
            "resnet32": 7.51,
            "resnet44": 7.17,
            "resnet56": 6.97,
            "resnet110": 6.43,
            "resnet1202": 7.93,
        },
    ),
)
"""The cells in use so far: sizes for the catalogue, the lecture's four errors, and Table 6."""


def find(network: str, quantity: str) -> Cell | None:
    """Return the published cell for a network and a quantity, or `None` where the paper has none."""
    return next((cell for cell in LEDGER if (cell.network, cell.quantity) == (network, quantity)), None)
