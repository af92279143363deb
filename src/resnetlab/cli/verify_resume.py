"""`resnetlab verify-resume`: compare a run that is killed and resumed with an uninterrupted run."""

import random
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from resnetlab.cli.terminal import print_json
from resnetlab.config import ConfigError
from resnetlab.system.python_command import python_module


@dataclass(frozen=True)
class Options:
    """Train a small run twice and compare: once uninterrupted, once killed (kill -9) at random steps and resumed.

    Weights, BN statistics, momentum and record must be equal to the last bit; only times may differ. On a GPU two runs
    may differ without any kill, as kernels there may add in another order each time.
    """

    model: str = "resnet8"
    """The network."""
    data: str = "digits"
    """The data set, as for resnetlab train."""
    data_root: Path | None = None
    """Folder of the archives of a named data set."""
    steps: int = 120
    """Length of the run in steps, at least 10."""
    kills: int = 3
    """Number of times that the second run is killed, at least 1."""
    seed: int = 0
    """Seed of the run, and of the steps at which it is killed."""
    workers: int = 0
    """Threads that decode images, as for resnetlab train."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Train both runs and compare them; return 1 if they differ."""
    for name, minimum in (("steps", 10), ("kills", 1), ("workers", 0), ("seed", 0)):
        if getattr(options, name) < minimum:
            raise ConfigError(f"{name} must be at least {minimum}, not {getattr(options, name)}")
    from resnetlab.cli.console import open_console

    console = open_console(stderr=True)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="verify-resume-") as folder:
        uninterrupted, resumed = Path(folder, "uninterrupted"), Path(folder, "resumed")
        console.print(f"uninterrupted run: {options.model} on {options.data}, {options.steps} steps …", highlight=False)
        train(options, uninterrupted)
        killed_at: list[int] = []
        for kill in range(1, options.kills + 1):
            first_step = killed_at[-1] + 1 if killed_at else 1
            step = rng.randint(first_step, max(first_step, options.steps * kill // options.kills - 1))
            killed_at.append(kill_after(options, resumed, step))
            console.print(f"killed after the checkpoint of step {killed_at[-1]}", highlight=False)
        train(options, resumed)

        from resnetlab.training.run_files.compare_runs import run_differences

        differences = run_differences(uninterrupted, resumed)
    if options.json:
        print_json({"equal": not differences, "killed_at": killed_at, "differences": differences})
    elif differences:
        print(f"not equal: {'; '.join(differences[:5])}" + (" …" if len(differences) > 5 else ""))
    else:
        count = "once" if len(killed_at) == 1 else f"{len(killed_at)} times"
        print(f"equal to the last bit: weights, statistics, momentum, record; killed {count}")
    return 1 if differences else 0


def train_command(options: Options, out: Path) -> list[str]:
    """Return the `train` command of a run with a checkpoint at every step."""
    data_root = [] if options.data_root is None else ["--data-root", str(options.data_root)]
    recipe = "digits" if options.data == "digits" else "cifar-paper"
    return [
        *python_module("resnetlab"),
        "train",
        "--model",
        options.model,
        "--data",
        options.data,
        *data_root,
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
    """Train a run to its end.

    Raises:
        RuntimeError: if it fails.
    """
    process = subprocess.run(train_command(options, out), capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"the run failed: {(process.stderr.strip().splitlines() or ['no error message'])[-1]}")


def kill_after(options: Options, out: Path, step: int) -> int:
    """Train a run until the checkpoint of `step` exists, then kill it; return the step of its newest checkpoint.

    Raises:
        RuntimeError: if it ended before it was killed.
    """
    process = subprocess.Popen(train_command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and newest_step(out) < step:
        time.sleep(0.001)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run ended before it was killed; use more --steps or fewer --kills")
    return newest_step(out)


def newest_step(out: Path) -> int:
    """Return the step of the newest checkpoint, or 0. Checkpoints are numbered, and there is one per step."""
    numbers = [int(path.name.rpartition("-")[2]) for path in (out / "checkpoint").glob("save-*")]
    return max(numbers, default=0)
