"""Cost of the checksums: hashing speed, and the share of loading a model file, reading a record and reading a shard.

    python benchmarks/seal_cost.py [--model resnet50] [--repeats 7]

Prints the median of several repetitions. Files are in the page cache.
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
from unittest import mock

from resnetlab.config import Preprocessing
from resnetlab.data.images.shard_checks import find_damage
from resnetlab.models import model_file
from resnetlab.models.model_card import ModelCard
from resnetlab.models.zoo import build_model
from resnetlab.training.record import Record, read_record

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--repeats", type=int, default=7)
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
        with mock.patch.object(model_file, "check_seal"):
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

        sealed_s = median_s(write, options.repeats)
        with mock.patch("resnetlab.training.record.seal_line", lambda line, before: (line, "")):
            plain_s = median_s(write, options.repeats)
        write()
        read_s = median_s(lambda: read_record(folder / "record.jsonl"), options.repeats)
        print(
            f"record: {1e6 * sealed_s / RECORD_LINES:.0f} µs a line, {1e6 * plain_s / RECORD_LINES:.0f} without "
            f"checksums; {RECORD_LINES:,} lines are read and checked in {read_s:.3f} s"
        )
        shard = folder / "train-000000.tar"
        shard.write_bytes(os.urandom(1 << 20) * (SHARD_BYTES >> 20))
        shard_s = median_s(lambda: find_damage(shard, "0" * 64), options.repeats)
        print(f"shard of {SHARD_BYTES / 2**20:.0f} MiB: {shard_s:.3f} s in the background, once in a run")


if __name__ == "__main__":
    main()
