"""What `data check` found in a data set, counted and printed."""

from collections import Counter
from dataclasses import dataclass
from statistics import median_low

SHOWN_CLASSES = 24
"""Rows of a class table; of more classes the smallest and the largest are shown."""
SHOWN_PAIRS = 10
"""Duplicates that are named; all of them are in the JSON."""
NAME_WIDTH = 36
"""Columns for a class name."""


@dataclass(frozen=True)
class ImageInfo:
    """What one image turned out to be."""

    split: str
    name: str
    label: int
    height: int
    width: int
    mode: str
    format: str
    digest: bytes
    """A hash of the encoded bytes; of the pixels, where a data set comes without any encoding."""


@dataclass(frozen=True)
class DatasetReport:
    """A data set, looked through."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    images: list[ImageInfo]
    bad: list[str]
    """Each as `NAME: REASON`."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class SplitSummary:
    """What is told of one split; sizes are (width, height) in pixels, in the order of their areas."""

    images: int
    classes: dict[str, int]
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    commonest: tuple[int, int]
    commonest_images: int
    modes: dict[str, int]
    formats: dict[str, int]
    duplicates: int
    """Images of which another one in the split is an exact copy, less one of each kind."""


def summarise(found: DatasetReport, split: str) -> SplitSummary:
    """Count what one split holds."""
    images = [image for image in found.images if image.split == split]
    labels = Counter(image.label for image in images)
    sizes = sorted(((image.width, image.height) for image in images), key=lambda size: (size[0] * size[1], size))
    ((commonest, often),) = Counter(sizes).most_common(1) or [((0, 0), 0)]
    none = (0, 0)
    return SplitSummary(
        images=len(images),
        classes={name: labels[label] for label, name in enumerate(found.classes)},
        smallest=sizes[0] if sizes else none,
        median=sizes[(len(sizes) - 1) // 2] if sizes else none,
        largest=sizes[-1] if sizes else none,
        commonest=commonest,
        commonest_images=often,
        modes=dict(Counter(image.mode for image in images).most_common()),
        formats=dict(Counter(image.format for image in images).most_common()),
        duplicates=len(images) - len({image.digest for image in images}),
    )


def duplicates_between(found: DatasetReport) -> list[tuple[ImageInfo, ImageInfo]]:
    """Pair each image with its first exact copy in an earlier split: it was trained on, and then measured."""
    first: dict[bytes, ImageInfo] = {}
    pairs = []
    for image in found.images:  # in the order of the splits
        earlier = first.setdefault(image.digest, image)
        if earlier.split != image.split:
            pairs.append((earlier, image))
    return pairs


def print_summary(
    found: DatasetReport, summaries: dict[str, SplitSummary], pairs: list[tuple[ImageInfo, ImageInfo]]
) -> None:
    """Print what was found: classes, sizes, duplicates, warnings, bad files."""
    _print_classes(found, summaries)
    print()
    for split, summary in summaries.items():
        if summary.images:
            print(f"{split}: {_sizes(summary)}; {_counts(summary.formats)}; {_counts(summary.modes)}")
    if "all" in summaries:
        print("no splits yet: when opened, 10 % of each class are held out for val and for test")
    for split, summary in summaries.items():
        if summary.duplicates:
            print(f"exact copies within {split}: {summary.duplicates:,}")
    if len(summaries) > 1:
        print(f"exact copies between splits (same bytes): {len(pairs) or 'none'}")
    for earlier, image in pairs[:SHOWN_PAIRS]:
        print(f"  {_where(image)} = {_where(earlier)}")
    if len(pairs) > SHOWN_PAIRS:
        print(f"  … and {len(pairs) - SHOWN_PAIRS:,} more; --json lists all")
    for warning in found.warnings:
        print(f"warning: {warning}")
    if found.bad:
        print(f"{len(found.bad):,} cannot be read:")
        for bad in found.bad:
            print(f"  {bad}")
    else:
        print("every image can be read")


def _print_classes(found: DatasetReport, summaries: dict[str, SplitSummary]) -> None:
    from rich.console import Console

    from resnetlab.cli.tables import table

    listing = table("class", *summaries)
    columns = [summary.classes for summary in summaries.values()]
    shown: list[str | None] = list(found.classes)
    if len(shown) > SHOWN_CLASSES:
        by_size = sorted(found.classes, key=lambda name: -columns[0][name])
        shown = [*by_size[: SHOWN_CLASSES // 2], None, *by_size[-SHOWN_CLASSES // 2 :]]
    for name in shown:
        if name is None:
            listing.add_row(f"… {len(found.classes) - SHOWN_CLASSES:,} more", *("…" for _ in columns))
        else:
            short = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
            listing.add_row(short, *(f"{column[name]:,}" for column in columns))
    listing.add_section()
    for word, reduce in (("smallest class", min), ("median", median_low), ("largest class", max), ("total", sum)):
        listing.add_row(word, *(f"{reduce(column.values()):,}" for column in columns))
    Console(markup=False).print(listing)


def _sizes(summary: SplitSummary) -> str:
    smallest, middle, largest = (f"{w}x{h}" for w, h in (summary.smallest, summary.median, summary.largest))
    if summary.commonest_images == summary.images:
        return f"all {smallest} pixels"
    often = f"{summary.commonest_images:,} of {summary.commonest[0]}x{summary.commonest[1]}"
    return f"{smallest} to {largest} pixels, median {middle}, {often}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _where(image: ImageInfo) -> str:
    return image.name if image.name.startswith(image.split) else f"{image.split} {image.name}"
