"""The types of the published numbers: `Protocol`, `PublishedResult`, and a builder for table rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LAST_EPOCH, BEST_ON_VAL, BEST_ON_TEST = "the last epoch", "the best epoch on validation", "the best epoch on test"
"""Values of `Protocol.tested_epoch`: the epoch whose weights were tested."""


@dataclass(frozen=True)
class Protocol:
    """The conditions under which a number was measured; a reproduction must share all of them.

    `None` in a field means that the value is not published or does not apply. Protocols compare equal if their fields
    do; `description` is not compared.
    """

    description: str = field(compare=False)
    """The protocol in words, for display."""
    data: str
    """The data set's name, such as `CIFAR-10`."""
    num_train: int | None = None
    num_val: int | None = None
    """Images held out of the training set for model selection."""
    num_test: int | None = None
    """Images on which the number was measured."""
    image_size: int | None = None
    """Side of the network's input in training, in pixels."""
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    """Highest learning rate."""
    schedule: str | None = None
    """The decay of the learning rate, such as `divided by 10 at 50 % and 75 %` of the run."""
    warmup: str | None = None
    """The start of training, such as `no warm-up` or `lr 0.01 until the training error is below 80 %`."""
    momentum: float | None = None
    weight_decay: float | None = None
    augmentation: tuple[str, ...] | None = None
    """The random transforms of training images, each in words: `flips`."""
    normalise: str | None = None
    """The values that are subtracted from images, and those by which images are divided."""
    tested_epoch: str | None = None
    """The epoch whose weights were tested."""
    views: str | None = None
    """The crops of a test image: `single view`, `10 crops`."""
    precision: str | None = None
    """Precision of convolutions and matrix products in training."""
    extras: tuple[str, ...] = ()
    """Whatever else a recipe does, as it is set: `nesterov=true`."""


@dataclass(frozen=True)
class PublishedResult:
    """One published number; `value` is in the unit of `quantity`."""

    network: str
    """A name for `model_config`, plus the shortcut's letter where a table has several; otherwise as printed."""
    quantity: str
    value: float
    table: str
    """The table, such as `Table 6`, or the figure or page."""
    column: str
    """The column's heading, as printed."""
    protocol: Protocol
    std: float | None = None
    """Published standard deviation over runs, in the unit of the value."""
    num_runs: int | None = 1
    """Number of runs; `None` if it is not published."""
    source: str = "paper"
    """`paper`, or the repository that published the number."""
    is_lower_bound: bool = False
    """Whether the source states only that the number is above `value`."""

    @property
    def reference(self) -> str:
        """The table of the paper, such as `Table 6`, or the source of a reproduction."""
        return self.table if self.source == "paper" else self.source


def published_results(
    table: str,
    columns: Mapping[str, str],
    protocol: Protocol,
    *,
    rows: Mapping[str, Sequence[float | None]],
    source: str = "paper",
) -> tuple[PublishedResult, ...]:
    """Return the cells of a table, row by row.

    Args:
        table: The table's name, such as `Table 6`.
        columns: The heading of each column, by quantity.
        protocol: The protocol of all cells.
        rows: The values of each network in the order of the columns; `None` stands for a dash.
        source: `paper`, or the repository that published the table.
    """
    return tuple(
        PublishedResult(
            network=network,
            quantity=quantity,
            value=value,
            table=table,
            column=column,
            protocol=protocol,
            source=source,
        )
        for network, values in rows.items()
        for (quantity, column), value in zip(columns.items(), values, strict=True)
        if value is not None
    )
