"""Paths of the images that benchmarks read; no data set is part of the repository.

Each benchmark takes a path as an option. If it is not given, the benchmark looks in the folder that the environment
variable RESNETLAB_DATA names:

- `cifar10`: CIFAR-10 as parquet files in the Hugging Face layout;
- `imagenette64`: Imagenette with a shorter side of 64 pixels, parquet;
- `imagenette224-sample`: some hundred Imagenette photographs as JPEG files, with a folder `val`.
"""

import argparse
import os
from pathlib import Path

VARIABLE = "RESNETLAB_DATA"


def default_path(name: str) -> Path | None:
    """Return the folder `name` below RESNETLAB_DATA, or None if the variable is not set."""
    root = os.environ.get(VARIABLE)
    return Path(root) / name if root else None


def add_data_argument(parser: argparse.ArgumentParser, option: str, name: str, help_text: str) -> None:
    """Add an option for a path; it is required if RESNETLAB_DATA is not set.

    Args:
        parser: The benchmark's parser.
        option: The option, such as `--data`.
        name: The folder below RESNETLAB_DATA that is the default.
        help_text: What the path must hold.
    """
    default = default_path(name)
    parser.add_argument(
        option,
        type=Path,
        default=default,
        required=default is None,
        help=f"{help_text} (default: ${VARIABLE}/{name})",
    )
