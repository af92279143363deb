"""Compare the wall time of the default study with the same trainings in a plain PyTorch loop.

Both sides are whole programs from start to exit, run in turn. The study also writes records, models and a report, and
collects layer statistics. Its deepened networks are left out, because the plain loop has no counterpart. Prints each
pair and the median ratio; `--json` prints one object.

    python benchmarks/study_speed.py --pairs 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOUND = 0.55
"""Largest ratio of study to plain loop, on two cores."""


def main() -> int:
    """Run the pairs and print their times; return 1 if the median ratio exceeds the bound."""
    parser = argparse.ArgumentParser(description="time the default study against a plain loop")
    parser.add_argument("--pairs", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the study")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    plain_loop = [sys.executable, str(Path(__file__).with_name("plain_loop.py")), "2", str(options.seeds)]
    pairs = []
    for index in range(options.pairs):
        with tempfile.TemporaryDirectory() as folder:
            study = [
                sys.executable,
                "-m",
                "resnetlab",
                "study",
                "--no-identity-init",
                "--arms",
                "plain",
                "residual",
                "--out",
                folder,
                "--seeds",
                str(options.seeds),
            ]
            sides = {"study": study, "plain_loop": plain_loop}
            order = list(sides) if index % 2 == 0 else list(sides)[::-1]  # neither side is always second
            pairs.append({name: seconds(sides[name]) for name in order})
        if not options.json:
            print({name: round(value, 1) for name, value in pairs[-1].items()}, flush=True)
    ratios = [pair["study"] / pair["plain_loop"] for pair in pairs]
    result = {"pairs_s": pairs, "ratios": ratios, "median_ratio": statistics.median(ratios), "bound": BOUND}
    if options.json:
        print(json.dumps(result))
    else:
        print("ratios", *(f"{ratio:.3f}" for ratio in ratios), f"median {result['median_ratio']:.3f}, bound {BOUND}")
    return int(result["median_ratio"] > BOUND)


def seconds(command: list[str]) -> float:
    """Return the wall time of a command in seconds; the command must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
