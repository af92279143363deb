"""Run `resnetlab` with a generated file under the name of published weights; `first_use.py` serves the file.

The file has the keys and shapes of the published one and random weights. Address and SHA-256 in the catalogue are
replaced; download, check, conversion and cache are those of every user.

    python benchmarks/generated_weights.py make FOLDER
    python benchmarks/generated_weights.py use URL SHA256 train --data photos --from resnet18.tv_in1k
"""

import dataclasses
import sys
from pathlib import Path

from resnetlab.cli import main as command_line
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.system.download import RemoteFile

NAME = "resnet18.tv_in1k"


def main() -> int:
    """Write the file, or run a command that finds it under the published name."""
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
            return 0
        case ["use", url, sha256, *words]:
            CATALOGUE[NAME] = dataclasses.replace(CATALOGUE[NAME], file=RemoteFile(url, sha256))
            return command_line.main(words)
        case _:
            sys.exit(__doc__)


def make(folder: Path) -> None:
    """Write the generated file into a folder, under the published file name."""
    import torch

    from resnetlab.models.zoo import build_model

    network = build_model(CATALOGUE[NAME].model, generator=torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), folder / CATALOGUE[NAME].file_name)


if __name__ == "__main__":
    sys.exit(main())
