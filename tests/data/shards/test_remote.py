"""Shards behind a URL: downloaded whole, one after the other, into a cache of limited size."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.photographs import write_photographs
from helpers.remote_shards import NUM_SHARDS, RECIPE, cached_files, config, open_remote, pack_shards, size_gib
from helpers.web_server import serve_folder
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.loader import eval_batches, train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import dataset_title, detect_kind
from resnetlab.data.sampler import SHUFFLE_WINDOW
from resnetlab.data.shards import remote
from resnetlab.data.shards.format import ShardEntry, ShardIndex
from resnetlab.data.shards.local import list_shards
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return pack_shards(tmp_path_factory.mktemp("far"))


@pytest.fixture
def server(shards):
    with serve_folder(shards) as server:
        yield server


def test_the_kind_of_a_url_is_detected_without_a_request():
    assert detect_kind(DataConfig("https://example.invalid/some/shards")) == "shards"
    assert dataset_title(DataConfig("s3://bucket/some/shards/")) == "shards"


def test_listing_downloads_only_the_indices(server, shards, tmp_path):
    listing, local = list_dataset(config(server, tmp_path)), list_shards(shards)
    assert not [name for name in server.requests if name.endswith(".tar")]
    assert listing.classes == local.classes
    for name, split in listing.splits.items():
        assert list(split.names) == list(local.splits[name].names)
        assert list(split.labels) == list(local.splits[name].labels)
    list_dataset(config(server, tmp_path))
    assert server.requests["index.json"] == 2
    assert server.requests["train-000000.npz"] == 1


def test_indices_are_parsed_one_at_a_time(server, tmp_path, monkeypatch):
    """In Python 3.11, parsing in several threads sometimes raises SystemError."""
    reading, load = [], np.load

    def load_alone(file, **options):
        reading.append(file)
        time.sleep(0.005)
        assert len(reading) == 1
        return load(reading.pop(), **options)

    monkeypatch.setattr(np, "load", load_alone)
    for _ in ("downloaded", "from the cache"):
        list_dataset(config(server, tmp_path))


def test_remote_and_local_shards_hold_the_same_images(server, shards, tmp_path):
    remote_data, local_data = (
        open_remote(server, tmp_path),
        open_data(DataConfig(str(shards), image_size=16), keep_encoded=True),
    )
    assert remote_data.train.shards is not None
    for name, split in remote_data.splits.items():
        assert sorted(split.names) == sorted(local_data.splits[name].names)
    assert isinstance(remote_data.val.images, EncodedImages)
    assert isinstance(local_data.val.images, EncodedImages)
    at = [list(local_data.val.names).index(name) for name in remote_data.val.names]
    assert torch.equal(
        remote_data.val.images.decode_eval_views(torch.arange(12))[0],
        local_data.val.images.decode_eval_views(torch.tensor(at))[0],
    )


@pytest.mark.parametrize("train_images", [None, 30])
def test_the_fingerprint_is_that_of_local_shards(server, shards, tmp_path, train_images):
    """It does not depend on the order of reads. Evaluation compares it with that of the training data."""
    local_config = DataConfig(str(shards), image_size=16, train_images=train_images)
    remote_config = replace(local_config, name=server.url, root=str(tmp_path))
    remote_data, local_data = (open_data(data, keep_encoded=True) for data in (remote_config, local_config))
    assert list(remote_data.train.names) != list(local_data.train.names)
    assert remote_data.fingerprint == local_data.fingerprint


def test_the_held_out_split_is_the_same_for_every_container_format(tmp_path):
    source = write_photographs(tmp_path / "source", train=30, val=0) / "train"
    pack_dataset(DataConfig(str(source)), tmp_path / "shards", PackOptions(shard_mib=1))
    with serve_folder(tmp_path / "shards") as server:
        sources = [
            DataConfig(name, root=str(tmp_path), image_size=16)
            for name in (server.url, str(tmp_path / "shards"), str(source))
        ]
        for trained in sources:
            data = open_data(trained, keep_encoded=True)
            for evaluated in sources:
                found = open_eval_dataset(evaluated, data.preprocessing, trained_on=data.fingerprint, keep_encoded=True)
                assert found.split_name == "test"
                assert sorted(found.split.names) == sorted(data.test.names)


def test_small_images_are_resident_like_local_ones(server, shards, tmp_path):
    remote_data, local_data = open_data(config(server, tmp_path)), open_data(DataConfig(str(shards), image_size=16))
    assert remote_data.fingerprint == local_data.fingerprint
    assert remote_data.train.shards is None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_downloads_each_shard_once(server, shards, tmp_path, workers):
    data = open_remote(server, tmp_path, cache_gib=size_gib(shards, SHUFFLE_WINDOW + 1.5))
    held = {path.name for path in cached_files(tmp_path)}
    server.request_order.clear()
    batches = list(train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=0, workers=workers))
    assert len(batches) == NUM_SHARDS
    downloaded = [name for name in server.request_order if name.startswith("train")]
    # Measuring the normalisation read the first shards, which may still be in the cache.
    assert NUM_SHARDS - SHUFFLE_WINDOW - 1 <= len(downloaded) <= NUM_SHARDS
    assert len(set(downloaded)) == len(downloaded)
    assert sum(path.stat().st_size for path in cached_files(tmp_path)) <= size_gib(shards, SHUFFLE_WINDOW + 1.5) * 2**30
    assert {path.name for path in cached_files(tmp_path)} != held


def test_an_epoch_depends_on_seed_and_epoch_but_not_on_the_cache(server, shards, tmp_path):
    def epoch(cache, number, workers, room):
        data = open_remote(server, cache, cache_gib=size_gib(shards, room))
        batches = train_batches(data.train, data.preprocessing, RECIPE, seed=5, epoch=number, workers=workers)
        return torch.cat([images for images, _ in batches])

    first = epoch(tmp_path / "a", 0, 0, SHUFFLE_WINDOW + 1.1)
    assert torch.equal(first, epoch(tmp_path / "b", 0, 2, 30))
    assert not torch.equal(first, epoch(tmp_path / "b", 1, 2, 30))


def test_a_resumed_epoch_starts_in_the_middle(server, tmp_path):
    data = open_remote(server, tmp_path)
    whole = [images for images, _ in train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=3)]
    shutil.rmtree(tmp_path / "shards")
    again = open_remote(server, tmp_path)
    server.request_order.clear()
    rest = [
        images for images, _ in train_batches(again.train, data.preprocessing, RECIPE, seed=0, epoch=3, first_step=8)
    ]
    assert torch.equal(torch.cat(rest), torch.cat(whole[8:]))


def test_shards_are_prefetched(server, tmp_path):
    data = open_remote(server, tmp_path)
    batches = train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=1)
    next(batches)
    until = time.monotonic() + 5
    while len([path for path in cached_files(tmp_path) if path.stat().st_size > 20_000]) < 2 * SHUFFLE_WINDOW:
        assert time.monotonic() < until
        time.sleep(0.01)
    batches.close()


def test_evaluation_reads_shards_in_order(server, shards, tmp_path):
    data = open_remote(server, tmp_path)
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "shards").mkdir()
    data = open_remote(server, tmp_path)
    assert torch.equal(data.train.shards, data.train.shards.sort().values)  # pyright: ignore
    list(eval_batches(data.train, data.preprocessing, 12))
    downloaded = [name for name in server.request_order if name.startswith("train") and name.endswith("tar")]
    assert len(downloaded) == NUM_SHARDS * 2  # once before the cache was deleted
    assert downloaded[NUM_SHARDS:] == sorted(downloaded[NUM_SHARDS:])


def test_training_from_a_url_does_not_depend_on_workers(server, tmp_path):
    run = RunConfig(model_config("resnet8"), config(server, tmp_path), recipe("imagenet-90", batch_size=12, epochs=2))
    one = fit(run, options=RuntimeOptions(workers=2, cache_gib=1))
    other = fit(run, options=RuntimeOptions(workers=0, cache_gib=1))
    assert all(torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in one.model.state_dict().items())


def test_evaluate_respects_the_cache_size(server, shards, tmp_path, capsys):
    run = RunConfig(model_config("resnet8"), DataConfig(str(shards), image_size=16), RECIPE)
    fit(run, tmp_path / "run", options=RuntimeOptions(workers=0))
    arguments = [
        "evaluate",
        str(tmp_path / "run"),
        "--data",
        server.url,
        "--data-root",
        str(tmp_path / "cache"),
        "--json",
        "--device",
        "cpu",
        "--cache-gib",
    ]
    capsys.readouterr()
    assert main([*arguments, "1"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 12
    assert main([*arguments, str(size_gib(shards, SHUFFLE_WINDOW))]) == 2
    assert re.fullmatch(r"resnetlab: a cache of .* --cache-gib [\d.e-]+ or more\n", capsys.readouterr().err)
    assert main([*arguments, "0"]) == 2
    assert capsys.readouterr().err == "resnetlab: cache-gib must be a number above 0, not 0\n"


@pytest.mark.parametrize(("action", "counted"), [("check", "images"), ("pack", "samples")])
def test_data_command_respects_the_cache_size(server, shards, tmp_path, capsys, action, counted):
    out = ["--out", str(tmp_path / "out")] if action == "pack" else []
    arguments = ["data", action, server.url, *out, "--data-root", str(tmp_path / "cache"), "--json", "--cache-gib"]
    assert main([*arguments, str(size_gib(shards, SHUFFLE_WINDOW + 2))]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"][counted] == 120
    assert (
        len([path for path in cached_files(tmp_path / "cache") if path.stat().st_size > 20_000]) <= SHUFFLE_WINDOW + 2
    )
    assert main([*arguments, str(size_gib(shards, SHUFFLE_WINDOW))]) == 2
    assert re.fullmatch(r"resnetlab: a cache of .* --cache-gib [\d.e-]+ or more\n", capsys.readouterr().err)


def test_a_cache_that_is_too_small_is_refused(server, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"a cache of .* GiB is too small for the 5 shards.*--cache-gib"):
        open_remote(server, tmp_path, cache_gib=size_gib(shards, SHUFFLE_WINDOW))


@pytest.mark.parametrize("num_bytes", [40_960, 1_048_576, 3_610_624, 268_439_552])
def test_the_suggested_cache_size_suffices(num_bytes):
    index = ShardIndex((), {"train": (ShardEntry("a.tar", 1, num_bytes, "", ""),)})
    with pytest.raises(ConfigError) as refused:
        remote._check_cache_size(index, 1e-9)
    suggested = re.search(r"--cache-gib (\S+) or more", str(refused.value))
    assert suggested
    remote._check_cache_size(index, float(suggested[1]))
    assert float(suggested[1]) < 1.01 * (SHUFFLE_WINDOW + 1) * num_bytes / 2**30


def test_the_least_recently_used_shards_are_deleted(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TOUCH_INTERVAL_S", 0.0)
    data = open_remote(server, tmp_path, cache_gib=size_gib(shards, SHUFFLE_WINDOW + 2))
    images = data.train.images
    assert isinstance(images, EncodedImages)
    first = data.train.shards.unique_consecutive(return_counts=True)[1].cumsum(0) - 1  # pyright: ignore
    for shard in range(NUM_SHARDS):
        images.decode_eval_views(first[shard : shard + 1])
    names = {entry.sha256 for entry in [shard.entry for shard in images.storage.shards]}  # pyright: ignore
    order = [shard.entry.sha256 for shard in images.storage.shards[:NUM_SHARDS]]  # pyright: ignore
    left = {path.name for path in cached_files(tmp_path)} & names
    assert SHUFFLE_WINDOW < len(left) < NUM_SHARDS
    assert left == set(order[-len(left) :])


def sum_of_images(url, cache, sums):
    data = open_data(DataConfig(url, root=cache, image_size=16), keep_encoded=True, cache_gib=1.0)
    batches = train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=0, workers=2)
    sums.put(float(sum(images.double().abs().sum() for images, _ in batches)))


@pytest.mark.slow
def test_processes_share_the_cache(server, tmp_path):
    context = multiprocessing.get_context("spawn")
    sums = context.Queue()
    workers = [context.Process(target=sum_of_images, args=(server.url, str(tmp_path), sums)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [sums.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len(set(found)) == 1
    for number in range(NUM_SHARDS):
        assert server.requests[f"train-{number:06}.tar"] == 1


@pytest.mark.slow
def test_torchrun_processes_train_as_one_and_download_each_shard_once(server, tmp_path):
    arguments = [
        "-m",
        "resnetlab",
        "train",
        "--data",
        server.url,
        "--model",
        "resnet8",
        "--recipe",
        "imagenet-90",
        "--image-size",
        "16",
        "--batch-size",
        "12",
        "--epochs",
        "1",
        "--sync-bn",
        "--workers",
        "1",
    ]
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    losses = []
    for name, launcher in (("one", []), ("two", torchrun)):
        server.requests.clear()
        out = tmp_path / name
        done = subprocess.run(
            [sys.executable, *launcher, *arguments, "--data-root", out / "cache", "--out", out / "run"],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert {server.requests[f"train-{number:06}.tar"] for number in range(NUM_SHARDS)} == {1}
        losses += [
            torch.tensor(line["curve"]["loss"])
            for line in read_record(out / "run" / "record.jsonl")
            if line["kind"] == "epoch"
        ]
    assert len(losses[0]) == NUM_SHARDS
    assert (losses[0] - losses[1])[:5].abs().max() < 1e-4  # before rounding errors have grown


def test_any_url_that_fsspec_reads_works(shards, tmp_path):
    data = open_data(DataConfig(f"file://{shards}", root=str(tmp_path), image_size=16), keep_encoded=True)
    assert len(list(train_batches(data.train, data.preprocessing, RECIPE, seed=0, epoch=0))) == NUM_SHARDS
