"""Results of `resnetlab data check`: counting and printing."""

from collections import Counter
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any

from resnetlab.cli.terminal import escape_name, print_lines

if TYPE_CHECKING:
    from resnetlab.data.listing import DatasetListing

MAX_CLASSES = 24
"""Class rows of a table; of more classes only the largest and the smallest are printed."""
MAX_PAIRS = 10
"""Duplicates that are printed; the JSON output has all."""
NAME_WIDTH = 36
"""Characters of a class name."""


@dataclass(frozen=True)
class ImageInfo:
    """Split, labels, size and format of one image that can be read."""

    split: str
    name: str
    labels: tuple[int, ...]
    """Its class, or any number of labels."""
    height: int
    width: int
    mode: str
    format: str
    digest: bytes
    """Hash of the encoded bytes, or of the pixels if the data set has no encoded images."""
    color_profile: str = ""
    """Name of the embedded colour profile; empty if there is none."""


@dataclass(frozen=True)
class DatasetReport:
    """The images of a data set after a check."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    images: list[ImageInfo]
    bad: list[str]
    """Images that cannot be read, each as `NAME: REASON`."""
    warnings: tuple[str, ...]
    listing: "DatasetListing | None" = None
    """The listing of your own data; `None` for a known data set."""


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split. Sizes are (width, height) in pixels, ordered by area."""

    images: int
    classes: dict[str, int]
    """Images of each class."""
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    commonest: tuple[int, int]
    commonest_images: int
    modes: dict[str, int]
    formats: dict[str, int]
    color_profiles: dict[str, int]
    """Images with each embedded colour profile; `sRGB` changes nothing, `unusable` ones are ignored."""
    duplicates: int
    """Images with an exact copy in the split, not counting the first of each kind."""


def summarise(report: DatasetReport, split: str) -> SplitSummary:
    """Count the images of one split."""
    images = [image for image in report.images if image.split == split]
    labels = Counter(label for image in images for label in image.labels)
    sizes = sorted(((image.width, image.height) for image in images), key=lambda size: (size[0] * size[1], size))
    ((commonest, commonest_images),) = Counter(sizes).most_common(1) or [((0, 0), 0)]
    return SplitSummary(
        images=len(images),
        classes={name: labels[label] for label, name in enumerate(report.classes)},
        smallest=sizes[0] if sizes else (0, 0),
        median=sizes[(len(sizes) - 1) // 2] if sizes else (0, 0),
        largest=sizes[-1] if sizes else (0, 0),
        commonest=commonest,
        commonest_images=commonest_images,
        modes=dict(Counter(image.mode for image in images).most_common()),
        formats=dict(Counter(image.format for image in images).most_common()),
        color_profiles=dict(Counter(image.color_profile for image in images if image.color_profile).most_common()),
        duplicates=len(images) - len({image.digest for image in images}),
    )


def duplicates_between(report: DatasetReport) -> list[tuple[ImageInfo, ImageInfo]]:
    """Pair each image with its first exact copy in an earlier split, such as a test image that is also in training."""
    first: dict[bytes, ImageInfo] = {}
    pairs = []
    for image in report.images:  # ordered by split
        earlier = first.setdefault(image.digest, image)
        if earlier.split != image.split:
            pairs.append((earlier, image))
    return pairs


def print_summary(
    report: DatasetReport, summaries: dict[str, SplitSummary], pairs: list[tuple[ImageInfo, ImageInfo]]
) -> None:
    """Print how the data were read, classes, sizes, duplicates, warnings and bad files."""
    _print_reading(report)
    _print_classes(report, summaries)
    print()
    for split, summary in summaries.items():
        if summary.images:
            print(f"{split}: {_sizes(summary)}; {_counts(summary.formats)}; {_counts(summary.modes)}")
        if summary.color_profiles:
            print(f"{split}: colour profiles: {_counts(summary.color_profiles)}")
    if "all" in summaries:
        print("no splits: training holds out 10 % of each class for val and 10 % for test")
    drawn = [split for split in ("all", "train") if split in summaries and "val" not in summaries]
    for split, summary in summaries.items():
        if summary.duplicates:
            fate = "; training may draw them into different splits" if split in drawn else ""
            print(f"exact copies within {split}: {summary.duplicates:,}{fate}")
    if len(summaries) > 1:
        print(f"exact copies between splits (same bytes): {len(pairs) or 'none'}")
    for earlier, image in pairs[:MAX_PAIRS]:
        print_lines(f"  {_describe(image)} = {_describe(earlier)}")
    if len(pairs) > MAX_PAIRS:
        print(f"  … and {len(pairs) - MAX_PAIRS:,} more; --json lists all")
    left_out = {group.line for group in report.listing.left_out} if report.listing else set()
    for warning in report.warnings:
        if warning not in left_out:  # printed above
            print_lines(f"warning: {warning}")
    if report.bad:
        print(f"{len(report.bad):,} cannot be read:")
        for bad in report.bad:
            print_lines(f"  {bad}")
    else:
        print("every image can be read")


def reading_json(report: DatasetReport) -> dict[str, Any]:
    """Return how the data were read as JSON values; empty for a known data set."""
    listing = report.listing
    if listing is None:
        return {}
    return {
        "read_as": listing.kind,
        "read_from": dict(listing.sources),
        "classes": list(listing.classes),
        "columns": dict(listing.columns),
        "left_out": [
            {"reason": group.reason, "count": group.count, "examples": list(group.examples)}
            for group in listing.left_out
        ],
    }


def _print_reading(report: DatasetReport) -> None:
    from resnetlab.data.listing import describe_listing

    if report.listing is not None:
        for line in (*describe_listing(report.listing), *(group.line for group in report.listing.left_out)):
            print_lines(line)
        print()


def _print_classes(report: DatasetReport, summaries: dict[str, SplitSummary]) -> None:
    from resnetlab.cli.console import open_console
    from resnetlab.cli.tables import table

    classes_table = table("class", *summaries)
    columns = [summary.classes for summary in summaries.values()]
    rows: list[str | None] = list(report.classes)
    if len(rows) > MAX_CLASSES:
        by_size = sorted(report.classes, key=lambda name: -columns[0][name])
        rows = [*by_size[: MAX_CLASSES // 2], None, *by_size[-MAX_CLASSES // 2 :]]
    for name in rows:
        if name is None:
            classes_table.add_row(f"… {len(report.classes) - MAX_CLASSES:,} more", *("…" for _ in columns))
        else:
            escaped = escape_name(name)
            short = escaped if len(escaped) <= NAME_WIDTH else f"{escaped[: NAME_WIDTH - 1]}…"
            classes_table.add_row(short, *(f"{column[name]:,}" for column in columns))
    classes_table.add_section()
    for word, reduce in (("smallest class", min), ("median", median_low), ("largest class", max), ("total", sum)):
        classes_table.add_row(word, *(f"{reduce(column.values()):,}" for column in columns))
    open_console().print(classes_table)


def _sizes(summary: SplitSummary) -> str:
    smallest, median, largest = (f"{w}x{h}" for w, h in (summary.smallest, summary.median, summary.largest))
    if summary.commonest_images == summary.images:
        return f"all {smallest} pixels"
    commonest = f"{summary.commonest_images:,} of {summary.commonest[0]}x{summary.commonest[1]}"
    return f"{smallest} to {largest} pixels, median {median}, {commonest}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _describe(image: ImageInfo) -> str:
    return image.name if image.name.startswith(image.split) else f"{image.split} {image.name}"
