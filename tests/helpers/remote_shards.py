"""Ten small shards for a local web server, and functions that open them."""

from pathlib import Path

import pytest
import torch

from helpers.photographs import write_photographs
from helpers.web_server import Server
from resnetlab.config import DataConfig
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.open_dataset import Dataset, open_data
from resnetlab.data.shards import pack as packing
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.training.recipes import recipe

NUM_SHARDS = 10
RECIPE = recipe("imagenet-90", batch_size=12, epochs=1, lr=0.02)


def pack_shards(folder: Path) -> Path:
    """Pack ten training shards of twelve images each, and one validation shard; return their folder."""
    source = write_photographs(folder / "source", train=120)
    out = folder / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", NUM_SHARDS * 2**20 / 120 - 2_200)
        index = pack_dataset(DataConfig(str(source)), out, PackOptions(shard_mib=1))
    assert len(index.splits["train"]) == NUM_SHARDS
    return out


def config(server: Server, cache: Path) -> DataConfig:
    return DataConfig(server.url, root=str(cache), image_size=16)


def open_remote(server: Server, cache: Path, cache_gib: float = 1.0) -> Dataset:
    return open_data(config(server, cache), keep_encoded=True, cache_gib=cache_gib)


def read_all(server: Server, cache: Path) -> torch.Tensor:
    """Decode every training image."""
    images = open_remote(server, cache).train.images
    assert isinstance(images, EncodedImages)
    return images.decode_eval_views(torch.arange(len(images)))[0]


def cached_files(cache: Path) -> list[Path]:
    """Return the complete files in a cache."""
    return [path for path in (cache / "shards").iterdir() if path.suffix not in (".lock", ".part")]


def size_gib(shards: Path, number: float) -> float:
    """Return the size of `number` shards, in GiB."""
    return number * max(path.stat().st_size for path in shards.glob("*.tar")) / 2**30
