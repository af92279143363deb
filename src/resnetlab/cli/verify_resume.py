"""`resnetlab verify-resume`: prove on this machine that a killed run ends as an unbroken one."""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from resnetlab.config import ConfigError


@dataclass(frozen=True)
class Options:
    """Train a small run twice, once unbroken and once killed (kill -9) at random moments and continued, and compare.

    Weights, BN statistics, momentum and record must be equal to the last bit; times alone may differ.
    """

    model: str = "resnet8"
    """The network."""
    data: str = "digits"
    """Its images, as for `resnetlab train`."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie."""
    steps: int = 120
    """Length of the run."""
    kills: int = 3
    """How often the second run is killed."""
    seed: int = 0
    """Seed of the run, and of the moments at which it is killed."""
    workers: int = 0
    """Threads that decode images, as for `resnetlab train`."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Run both and compare; return 1 where they differ."""
    for name, least in (("steps", 10), ("kills", 1), ("workers", 0), ("seed", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name} must be at least {least}, not {getattr(options, name)}")
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        unbroken, broken = Path(folder, "unbroken"), Path(folder, "broken")
        console.print(f"unbroken: {options.model} on {options.data}, {options.steps} steps …", highlight=False)
        train(options, unbroken)
        killed_at: list[int] = []
        for kill in range(1, options.kills + 1):
            first = killed_at[-1] + 1 if killed_at else 1
            step = chance.randint(first, max(first, options.steps * kill // options.kills - 1))
            killed_at.append(kill_after(options, broken, step))
            console.print(f"killed after the checkpoint of step {killed_at[-1]}", highlight=False)
        train(options, broken)

        from resnetlab.training.compare_runs import run_differences

        differences = run_differences(unbroken, broken)
    if options.json:
        print(json.dumps({"equal": not differences, "killed_at": killed_at, "differences": differences}))
    elif differences:
        print(f"not equal: {'; '.join(differences[:5])}" + (" …" if len(differences) > 5 else ""))
    else:
        print(f"equal to the last bit: weights, statistics, momentum, record; killed {len(killed_at)} times")
    return 1 if differences else 0


def command(options: Options, out: Path) -> list[str]:
    """Return the `train` command of one side; a checkpoint each step."""
    root = [] if options.data_root is None else ["--data-root", str(options.data_root)]
    recipe = "digits" if options.data == "digits" else "cifar-paper"
    return [
        sys.executable,
        "-m",
        "resnetlab",
        "train",
        "--model",
        options.model,
        "--data",
        options.data,
        *root,
        "--recipe",
        recipe,
        "--steps",
        str(options.steps),
        "--seed",
        str(options.seed),
        "--out",
        str(out),
        "--workers",
        str(options.workers),
        "--checkpoint-steps",
        "1",
        "--json",
    ]


def train(options: Options, out: Path) -> None:
    """Run one side to its end.

    Raises:
        RuntimeError: where it fails.
    """
    done = subprocess.run(command(options, out), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the run itself failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def kill_after(options: Options, out: Path, step: int) -> int:
    """Run one side until the checkpoint of `step` is there, and kill it; return the step it got to.

    Raises:
        RuntimeError: where it ended before it could be killed.
    """
    process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and newest(out) < step:
        time.sleep(0.001)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run ended before it was killed; give it more --steps, or fewer --kills")
    return newest(out)


def newest(out: Path) -> int:
    """Return the number of the newest checkpoint; with one a step, that is its step."""
    numbers = [int(path.name.rpartition("-")[2]) for path in (out / "checkpoint").glob("save-*")]
    return max(numbers, default=0)
