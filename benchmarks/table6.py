r"""Train the networks of the paper's Table 6 on one GPU, by the paper's protocol, in parts of some minutes.

Plain and residual networks of 20, 32, 44, 56 and 110 layers, recipe `cifar-paper` (64,000 steps): first in bf16, which
the records name as a difference from the protocol, then in fp32 without TF32, which is the same protocol; then the
recipe `fast` where this version has it. Several runs share the card, each a process of `resnetlab train` whose steps
are replayed from a CUDA graph.

After --minutes the runs are stopped and saved; the same command continues them. Each part leaves a small JSON record
for every run that has started. A run whose record says that it has ended is not trained again, wherever its folder is.
The first part begins with about a minute of measurement, whose record is `speed.json`: images/s of 20, 56 and 110
layers in eager mode, from a CUDA graph and compiled, and the share of an eager step that is spent on launches. --table
prints the table of the records and trains nothing.

    python benchmarks/table6.py --data cifar10 --data-root build/table6/data --minutes 9
    python benchmarks/table6.py --table

Where each part has a machine of its own, --pack writes the records and the runs that have not ended into a folder, as
files of at most 15 MiB (`table6_pack.py`). The next part gets that folder by --unpack:

    python benchmarks/table6.py --data cifar10 --minutes 9 --unpack part1 --pack part2

`table6_bundle.py` collects data and packages for a machine without a network. On the CPU, a trial:

    python benchmarks/table6.py --device cpu --data digits --networks resnet8 plain8 --steps 20 --out runs/trial
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from resnetlab.cli.local_processes import end_with_parent
from table6_pack import pack, unpack
from table6_records import BROKEN, ENDED, Job, log_of, write_record
from table6_speed import SPEED, measure
from table6_table import read_records, table

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "results" / "table6"
DEPTHS = (20, 56, 110, 32, 44)
"""Depths of Table 6 in the order of training: the ends of the table first."""
MEASURE_S = 75.0
"""Limit of the first measurement, in seconds; what is not measured by then is left out."""
STOP_S = 30.0
"""Seconds at the end of a part in which runs save their state."""


def main() -> int:
    """Train for --minutes; return 0 if every run has ended, 1 if one failed, 3 if the same command continues them."""
    options = parse_options()
    if options.table:
        print(table(read_records(options.records)))
        return 0
    if options.measure:
        measure(options)
        return 0
    deadline_s = time.monotonic() + 60 * options.minutes - STOP_S
    options.out.mkdir(parents=True, exist_ok=True)
    options.records.mkdir(parents=True, exist_ok=True)
    if options.unpack:
        try:
            print(unpack(options.unpack, options.out, options.records), flush=True)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 2
    if not (options.records / SPEED).exists() and not options.no_measurement:
        measure_first(options, deadline_s)
    try:
        records = train(options, deadline_s)
    finally:
        if options.pack:
            print(pack(options.pack, options.out, options.records), flush=True)
    print(table([record for record in records if record["status"] != "missing"]), flush=True)
    statuses = [record["status"] for record in records]
    if all(status in ENDED for status in statuses):
        return 0
    print(
        f"{sum(status in ENDED for status in statuses)} of {len(statuses)} runs have ended; continue with the same "
        "command",
        flush=True,
    )
    return 1 if any(status in BROKEN for status in statuses) else 3


def train(options: argparse.Namespace, deadline_s: float) -> list[dict[str, Any]]:
    """Train what has not ended until the deadline; return the record of every run."""
    before = {job: write_record(job, options) for job in make_jobs(options)}
    for job, record in before.items():
        if record["status"] == "damaged":
            report(job, record)
    pool = Pool(options, [job for job, record in before.items() if record["status"] not in (*ENDED, "damaged")])
    pool.run(deadline_s)
    return [pool.records.get(job, record) for job, record in before.items()]


def parse_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="train the networks of the paper's Table 6 on one GPU, in parts")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--data-root", type=Path, help="folder of the binary version of CIFAR-10")
    parser.add_argument("--minutes", type=float, default=9.0, help="length of this part")
    parser.add_argument("--networks", nargs="+", help="networks instead of those of Table 6")
    parser.add_argument("--recipes", nargs="+", default=["cifar-paper", "fast"], help="recipes, in this order")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"], help="precisions of cifar-paper")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of cifar-paper; fast has three")
    parser.add_argument("--parallel", type=int, default=4, help="runs at once")
    parser.add_argument("--steps", type=int, help="steps instead of the recipe's, for a trial")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device of the runs")
    parser.add_argument("--compile", help="how steps are prepared (default: cuda-graph on a GPU, else off)")
    parser.add_argument("--out", type=Path, default=Path("runs/table6"), help="folder of the runs")
    parser.add_argument(
        "--records", type=Path, help="folder of the records (default: docs/results/table6; trials: OUT)"
    )
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="start from what an earlier part has packed")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="pack records and unfinished runs at the end")
    parser.add_argument("--no-measurement", action="store_true", help="start without the first measurement")
    parser.add_argument("--measure", action="store_true", help="measure only")
    parser.add_argument("--table", action="store_true", help="print the table of the records only")
    options = parser.parse_args()
    is_trial = options.steps is not None or options.device == "cpu"
    options.records = options.records or (options.out / "records" if is_trial else RECORDS)
    options.compile = options.compile or ("off" if options.device == "cpu" else "cuda-graph")
    return options


def make_jobs(options: argparse.Namespace) -> list[Job]:
    """Return every run, in the order of training."""
    from resnetlab.training.recipes import RECIPES

    networks = options.networks or [f"{arm}{depth}" for depth in DEPTHS for arm in ("resnet", "plain")]
    jobs = []
    for recipe in options.recipes:
        if recipe == "fast":  # one network and three seeds, as a mean over seeds is its claim
            jobs += [Job("resnet20", recipe, "bf16", seed) for seed in range(3)] if recipe in RECIPES else []
        else:
            seeds = range(options.seeds)
            jobs += [Job(net, recipe, way, seed) for way in options.precisions for seed in seeds for net in networks]
    return jobs


class Pool:
    """Runs jobs side by side until the deadline, or until the process is asked to stop."""

    def __init__(self, options: argparse.Namespace, jobs: Sequence[Job]) -> None:
        self._options, self._waiting = options, list(jobs)
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._deadline_s = 0.0
        self.records: dict[Job, dict[str, Any]] = {}
        """The records of the runs that were started."""

    def run(self, deadline_s: float) -> None:
        """Start and watch the processes; return when all have ended, whatever is raised here."""
        self._deadline_s = deadline_s
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop_soon)
        try:
            while (self._waiting or self._running) and time.monotonic() < self._deadline_s:
                while self._waiting and len(self._running) < self._options.parallel:
                    job = self._waiting.pop(0)
                    self._running[job] = self._start(job)
                for job, process in list(self._running.items()):
                    if process.poll() is not None:
                        del self._running[job]
                        self._report(job, process.returncode != 0)
                time.sleep(0.2)
        finally:
            self._stop()
        for job in self._running:
            self._report(job)

    def _start(self, job: Job) -> "subprocess.Popen[bytes]":
        options, out = self._options, self._options.out / job.name
        words = ["train", "--model", job.network, "--data", options.data, "--recipe", job.recipe]
        words += ["--seed", str(job.seed), "--precision", job.precision, "--layout", "channels_last"]
        words += ["--compile", options.compile, "--device", options.device, "--checkpoint-seconds", "60"]
        words += ["--out", str(out), "--json"]
        words += ["--data-root", str(options.data_root)] if options.data_root else []
        words += ["--steps", str(options.steps)] if options.steps else []
        threads = max(1, (os.cpu_count() or 1) // options.parallel)
        with log_of(out).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "resnetlab", *words],
                stdout=log,
                stderr=log,
                env={"OMP_NUM_THREADS": str(threads), **os.environ},
                start_new_session=True,  # Ctrl-C reaches a run once, from here: a second signal ends it unsaved
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )

    def _stop_soon(self, _signum: int, _frame: FrameType | None) -> None:
        self._deadline_s = 0.0

    def _stop(self) -> None:
        """Let the running processes save their states, and wait for their end."""
        for process in self._running.values():
            process.terminate()
        end_s = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _report(self, job: Job, has_failed: bool = False) -> None:
        self.records[job] = write_record(job, self._options, has_failed=has_failed)
        report(job, self.records[job])


def report(job: Job, record: dict[str, Any]) -> None:
    """Print one line about a run."""
    errors = "" if record["test_error_pct"] is None else f", test error {record['test_error_pct']:.2f} %"
    problem = f": {record['error']}" if record["error"] else ""
    print(f"{job.name}: {record['status']} after {record['step']:,} steps{errors}{problem}", flush=True)


def measure_first(options: argparse.Namespace, deadline_s: float) -> None:
    """Measure speeds in a process of its own, which is ended when its time is over."""
    words = [sys.executable, __file__, "--measure", "--data", options.data, "--records", str(options.records)]
    words += ["--device", options.device, "--precisions", *options.precisions, "--out", str(options.out)]
    words += ["--data-root", str(options.data_root)] if options.data_root else []
    words += ["--networks", *options.networks] if options.networks else []
    words += ["--steps", str(options.steps)] if options.steps else []
    try:
        subprocess.run(words, check=False, timeout=max(1.0, min(MEASURE_S, deadline_s - time.monotonic())))
    except subprocess.TimeoutExpired:
        print("the measurement is cut here; the record has what was measured", flush=True)


if __name__ == "__main__":
    sys.exit(main())
