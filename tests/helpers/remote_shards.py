"""Ten small shards for a web server on the loopback, and how tests open them."""

from pathlib import Path

import pytest
import torch

from helpers.photographs import photographs
from helpers.web_server import Server
from resnetlab.config import DataConfig
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.open_dataset import Dataset, open_data
from resnetlab.data.shards import pack as packing
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.training.recipes import recipe

SHARDS = 10
WAY = recipe("imagenet-90", batch_size=12, epochs=1, lr=0.02)


def packed(folder: Path) -> Path:
    """Pack ten training shards of twelve pictures each, and one of validation; return where they are."""
    source = photographs(folder / "source", train=120)
    out = folder / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PER_SAMPLE", SHARDS * 2**20 / 120 - 2_200)
        index = pack_dataset(DataConfig(str(source)), out, PackOptions(shard_mib=1))
    assert len(index.splits["train"]) == SHARDS
    return out


def config(server: Server, cache: Path) -> DataConfig:
    return DataConfig(server.address, root=str(cache), image_size=16)


def opened(server: Server, cache: Path, cache_gib: float = 1.0) -> Dataset:
    return open_data(config(server, cache), keep_encoded=True, cache_gib=cache_gib)


def whole(server: Server, cache: Path) -> torch.Tensor:
    """Read every training sample."""
    images = opened(server, cache).train.images
    assert isinstance(images, EncodedImages)
    return images.views(torch.arange(len(images)))[0]


def cached(cache: Path) -> list[Path]:
    return [path for path in (cache / "shards").iterdir() if path.suffix not in (".lock", ".part")]


def gib(shards: Path, number: float) -> float:
    """Return the size of so many shards."""
    return number * max(path.stat().st_size for path in shards.glob("*.tar")) / 2**30
