"""Cost of the checksums: hashing speed, and the share of loading a model file, reading a record, and training.

    python benchmarks/checksum_cost.py [--model resnet50] [--repeats 7] [--photos FOLDER]

Prints the median of several repetitions. Files are in the page cache. With photographs, they are packed into shards,
and a training on them times every checksum that it computes: shards, lines of the record, checkpoints, the model file.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from resnetlab.config import DataConfig, Preprocessing, RunConfig
from resnetlab.data.images import shard_checks
from resnetlab.data.images.shard_checks import find_damage
from resnetlab.data.shards.pack import pack_dataset
from resnetlab.data.shards.writer import PackOptions
from resnetlab.models import model_file
from resnetlab.models.model_card import ModelCard
from resnetlab.models.zoo import build_model, model_config
from resnetlab.system.cores import usable_cores
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files import checkpoint
from resnetlab.training.run_files import record as record_module
from resnetlab.training.run_files.record import Record, read_record
from resnetlab.training.runtime_options import RuntimeOptions

SHARD_BYTES = 1 << 28
RECORD_LINES = 2_000


def median_s(call: Callable[[], object], repeats: int) -> float:
    """Return the median duration of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


def training_cost(photos: Path, folder: Path, epochs: int) -> str:
    """Train ResNet-18 on shards of photographs; return a line with the share of the time that checksums take.

    The seconds of a check in a background thread count in full, although the training goes on meanwhile.
    """
    shards, run = folder / "shards", folder / "run"
    pack_dataset(DataConfig(str(photos)), shards, PackOptions())
    spent: dict[str, float] = dict.fromkeys(("shards", "record", "checkpoints", "model file"), 0.0)

    def timed(name: str, module: object, function: str) -> mock._patch:
        call = getattr(module, function)

        def measured(*arguments: object, **options: object) -> object:
            start_s = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                spent[name] += time.perf_counter() - start_s

        return mock.patch.object(module, function, measured)

    hashes = SimpleNamespace(sha256=hashlib.sha256)
    data = DataConfig(str(shards), image_size=64, resident_mib=0)
    config = RunConfig(model_config("resnet18"), data, recipe("imagenet-90", epochs=epochs, batch_size=32))
    start_s = time.perf_counter()
    with (
        timed("shards", shard_checks, "find_damage"),
        timed("record", record_module, "add_checksum"),
        mock.patch.object(checkpoint, "hashlib", hashes),
        timed("checkpoints", hashes, "sha256"),
        timed("model file", model_file, "add_checksums"),
    ):
        fit(config, run, options=RuntimeOptions(checkpoint_s=30, workers=usable_cores()))
    total_s = time.perf_counter() - start_s
    size_mib = sum(path.stat().st_size for path in shards.glob("*")) / 2**20
    shares = ", ".join(f"{name} {100 * seconds / total_s:.3f} %" for name, seconds in spent.items())
    return f"training of {total_s:.0f} s, {epochs} epochs of {size_mib:.0f} MiB of shards: {shares}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photos", type=Path, help="a folder of photographs to train on; left out if not given")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of that training")
    options = parser.parse_args()
    data = os.urandom(1 << 26)
    hash_s = median_s(lambda: hashlib.sha256(data).digest(), options.repeats)
    print(f"SHA-256 in memory: {len(data) / hash_s / 1e6:,.0f} MB/s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_model(options.model, 1000).eval()
        size = 224 if model.config.stem == "imagenet" else 32
        card = ModelCard(model.config, tuple(map(str, range(1000))), Preprocessing(size, (0.5,) * 3, (0.25,) * 3))
        path = folder / "model.safetensors"
        model_file.save_model(path, model, card)
        with_s = median_s(lambda: model_file.load_model(path), options.repeats)
        with mock.patch.object(model_file, "check_checksums"):
            without_s = median_s(lambda: model_file.load_model(path), options.repeats)
        command = [sys.executable, "-c", f"import resnetlab; resnetlab.load_model({str(path)!r})"]
        process_s = median_s(lambda: subprocess.run(command, check=True), 3)
        check_s = with_s - without_s
        print(
            f"{options.model} ({path.stat().st_size / 1e6:,.0f} MB): load_model {with_s:.3f} s, without the check "
            f"{without_s:.3f} s; the check is {100 * check_s / process_s:.1f} % of a process that loads it "
            f"({process_s:.2f} s)"
        )
        stats = {"layers": [f"layer{number}" for number in range(60)], "grad_norm": [0.123456789] * 240}

        def write() -> None:
            with Record(folder / "record.jsonl", keep_bytes=0) as record:
                for step in range(RECORD_LINES):
                    record.write("signal", step=step, **stats)

        checked_s = median_s(write, options.repeats)
        with mock.patch("resnetlab.training.run_files.record.add_checksum", lambda line, before: (line, "")):
            plain_s = median_s(write, options.repeats)
        write()
        read_s = median_s(lambda: read_record(folder / "record.jsonl"), options.repeats)
        print(
            f"record: {1e6 * checked_s / RECORD_LINES:.0f} µs a line, {1e6 * plain_s / RECORD_LINES:.0f} without "
            f"checksums; {RECORD_LINES:,} lines are read and checked in {read_s:.3f} s"
        )
        shard = folder / "train-000000.tar"
        shard.write_bytes(os.urandom(1 << 20) * (SHARD_BYTES >> 20))
        shard_s = median_s(lambda: find_damage(shard, "0" * 64), options.repeats)
        print(f"shard of {SHARD_BYTES / 2**20:.0f} MiB: {shard_s:.3f} s in the background, once in a run")
        if options.photos is not None:
            print(training_cost(options.photos, folder, options.epochs))


if __name__ == "__main__":
    main()
