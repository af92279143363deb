r"""Collect what `table6.py` needs on a machine without a network: CIFAR-10 in six files of 31 MB, and wheels.

The machine has Python 3.12 and PyTorch; the wheels are those of the other packages that training imports. Both go into
`build/table6`, which git ignores: the data as the binary version of CIFAR-10, which is read without decoding. The order
of the images in a file does not change a run.

    python benchmarks/table6_bundle.py --data CIFAR10
    # there, with the repository and build/table6 beside it:
    python -m pip install --no-index --find-links build/table6/wheels --target build/table6/site \
        --no-deps build/table6/wheels/*.whl
    PYTHONPATH=build/table6/site:src python benchmarks/table6.py --minutes 9
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmark_data import add_data_argument
from resnetlab.config import DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import CIFAR10, KNOWN_DATASETS

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "build" / "table6"
PACKAGES = ("numpy", "pillow", "simplejpeg", "safetensors", "tyro", "rich", "filelock")
"""Packages that `resnetlab train` imports for CIFAR-10, besides PyTorch."""
MAX_FILE_BYTES = 60 * 2**20
"""Limit of a file, in bytes."""


def main() -> int:
    """Write data and wheels; return 1 if a file is larger than the limit."""
    parser = argparse.ArgumentParser(description="collect data and wheels for benchmarks/table6.py")
    add_data_argument(parser, "--data", "cifar10", "CIFAR-10, as for resnetlab train --data")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder for data and wheels")
    parser.add_argument("--python-version", default="3.12", help="Python of the machine")
    options = parser.parse_args()
    write_data(str(options.data), options.out / "data")
    download_wheels(options.out / "wheels", options.python_version)
    files = sorted(path for path in options.out.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size / 2**20:6.1f} MiB  {path.relative_to(options.out)}")
    return int(max(path.stat().st_size for path in files) > MAX_FILE_BYTES)


def write_data(data: str, out: Path) -> None:
    """Write CIFAR-10 as its binary version: a byte for the class, then 3,072 for the pixels, plane by plane."""
    known, dataset = KNOWN_DATASETS["cifar10"], open_data(DataConfig(data))
    folder = out / known.folder
    folder.mkdir(parents=True, exist_ok=True)
    # Which images validate is drawn from the training images, so both together are the published training set.
    training = np.concatenate([rows(dataset.train, dataset.classes), rows(dataset.val, dataset.classes)])
    for name, part in zip(known.train, np.array_split(training, len(known.train)), strict=True):
        (folder / name).write_bytes(part.tobytes())
    (folder / known.test[0]).write_bytes(rows(dataset.test, dataset.classes).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n")


def rows(split: Split, classes: tuple[str, ...]) -> np.ndarray:
    """Return class and pixels of each image: uint8 (num_images, 3073)."""
    images = np.asarray(split.images, np.uint8).reshape(len(split), -1)
    order = np.array([CIFAR10.index(name) for name in classes], np.uint8)
    return np.concatenate([order[split.labels.numpy()][:, None], images], axis=1)


def download_wheels(out: Path, python_version: str) -> None:
    """Download wheels for another Python, in the versions of constraints.txt."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    words += ["--only-binary", ":all:", "--python-version", python_version, "--platform", "manylinux_2_28_x86_64"]
    words += ["--platform", "manylinux2014_x86_64", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*words, "--dest", str(out), *PACKAGES], check=True)


if __name__ == "__main__":
    sys.exit(main())
