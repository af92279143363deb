r"""Collect what `table6.py` needs on a machine without a network: CIFAR-10 in six compressed files, and wheels.

The machine has Python 3.12, PyTorch and pip. The wheels are those of resnetlab's other dependencies in `pyproject.toml`
and of what these need, without the packages of --installed: what the machine has stays, and need not travel. Both go
into `build/table6`, which git ignores: the data as the binary version of CIFAR-10. The order of the images in a file
does not change a run.

    python benchmarks/table6_bundle.py --data CIFAR10 --installed torch numpy scipy
    # there, with the repository and build/table6 beside it; pip installs only what is missing:
    python -m pip install --no-index --find-links build/table6/wheels -r build/table6/requirements.txt
    PYTHONPATH=src python benchmarks/table6.py --data-root build/table6/data --minutes 9
"""

import argparse
import gzip
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from benchmark_data import add_data_argument
from resnetlab.config import DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import CIFAR10, KNOWN_DATASETS

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "build" / "table6"
MAX_FILE_BYTES = 60 * 2**20
"""Limit of a file, in bytes."""


def main() -> int:
    """Write data and wheels; return 1 if a file is larger than the limit."""
    parser = argparse.ArgumentParser(description="collect data and wheels for benchmarks/table6.py")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder for data and wheels")
    parser.add_argument("--installed", nargs="+", default=["torch"], help="packages that the machine has")
    parser.add_argument("--python-version", default="3.12", help="Python of the machine")
    options = parser.parse_args()
    write_data(str(options.data), options.out / "data")
    needed = requirements(options.installed)
    (options.out / "requirements.txt").write_text("\n".join([*needed, ""]))
    download_wheels(options.out / "wheels", needed, options.installed, options.python_version)
    files = sorted(path for path in options.out.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path.relative_to(options.out)}")
    print(f"{sum(path.stat().st_size for path in files) / 2**20:6.1f} MiB  in all")
    return int(max(path.stat().st_size for path in files) > MAX_FILE_BYTES)


def write_data(data: str, out: Path) -> None:
    """Write CIFAR-10 as its binary version: a byte for the class, then 3,072 for the pixels, plane by plane."""
    known, dataset = KNOWN_DATASETS["cifar10"], open_data(DataConfig(data))
    folder = out / known.folder
    folder.mkdir(parents=True, exist_ok=True)
    # Which images validate is drawn from the training images, so both together are the published training set.
    training = np.concatenate([rows(dataset.train, dataset.classes), rows(dataset.val, dataset.classes)])
    for name, part in zip(known.train, np.array_split(training, len(known.train)), strict=True):
        write_compressed(folder / name, part)
    write_compressed(folder / known.test[0], rows(dataset.test, dataset.classes))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n")


def rows(split: Split, classes: tuple[str, ...]) -> np.ndarray:
    """Return class and pixels of each image: uint8 (num_images, 3073)."""
    images = np.asarray(split.images, np.uint8).reshape(len(split), -1)
    order = np.array([CIFAR10.index(name) for name in classes], np.uint8)
    return np.concatenate([order[split.labels.numpy()][:, None], images], axis=1)


def write_compressed(path: Path, content: np.ndarray) -> None:
    """Write NAME.gz, which is read like NAME, and delete an uncompressed file of an earlier bundle."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content.tobytes(), 6, mtime=0))
    path.unlink(missing_ok=True)


def requirements(installed: Collection[str]) -> list[str]:
    """Return resnetlab's dependencies without those that the machine has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left_out = {package_name(name) for name in installed}
    return [line for line in project["dependencies"] if package_name(line) not in left_out]


def package_name(text: str) -> str:
    """Return the normalised name of a package: of a requirement, or of a wheel's file name."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]|-\d", text)[0]).lower()


def download_wheels(out: Path, needed: list[str], installed: Collection[str], python_version: str) -> None:
    """Download wheels for another Python, in the versions of constraints.txt."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    words += ["--only-binary", ":all:", "--python-version", python_version, "--platform", "manylinux_2_28_x86_64"]
    words += ["--platform", "manylinux2014_x86_64", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*words, "--dest", str(out), *needed], check=True)
    left_out = {package_name(name) for name in installed}
    for wheel in out.glob("*.whl"):
        if package_name(wheel.name) in left_out:  # another package needs it
            wheel.unlink()


if __name__ == "__main__":
    sys.exit(main())
