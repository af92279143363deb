"""Packing with a progress bar, and the output of `resnetlab data pack`."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.cli.terminal import print_json, print_lines
from resnetlab.config import DataConfig

if TYPE_CHECKING:
    from resnetlab.data.shards.format import ShardIndex

MAX_LEFT_OUT = 10
"""Left-out images that are printed; `index.json` lists all."""


def run_pack(
    config: DataConfig,
    out: Path,
    *,
    max_side: int | None,
    shard_mib: int,
    workers: int | None,
    cache_gib: float,
    as_json: bool,
) -> int:
    """Pack with a progress bar on stderr, and print the number and size of shards; return 0.

    Raises:
        ConfigError: As for `pack_dataset`.
    """
    from rich.progress import Progress

    from resnetlab.cli.console import open_console
    from resnetlab.data.residency import choose_color_profiles
    from resnetlab.data.shards.pack import PackOptions, pack_dataset

    console = open_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("packing", total=None)
        index = pack_dataset(
            config,
            out,
            PackOptions(max_side, shard_mib, choose_color_profiles(config)),
            workers=workers,
            cache_gib=cache_gib,
            on_progress=lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total),
        )
    if as_json:
        print_json({"out": str(out), "splits": split_counts(index), "left_out": list(index.left_out)})
        return 0
    for split, counts in split_counts(index).items():
        shards = f"{counts['shards']:,} shard{'' if counts['shards'] == 1 else 's'}"
        print(f"{split}: {counts['samples']:,} images in {shards}, {counts['bytes'] / 2**20:,.1f} MiB")
    for warning in index.warnings:
        print_lines(f"warning: {warning}")
    for bad in index.left_out[:MAX_LEFT_OUT]:
        print_lines(f"left out: {bad}")
    if len(index.left_out) > MAX_LEFT_OUT:
        print(f"… and {len(index.left_out) - MAX_LEFT_OUT:,} more; index.json lists all")
    print_lines(f"train on it with --data {out}", f"check it with resnetlab data check {out}")
    return 0


def split_counts(index: "ShardIndex") -> dict[str, dict[str, int]]:
    """Return the number of samples, shards and bytes of each split."""
    return {
        split: {
            "samples": sum(entry.samples for entry in entries),
            "shards": len(entries),
            "bytes": sum(entry.bytes for entry in entries),
        }
        for split, entries in index.splits.items()
    }
