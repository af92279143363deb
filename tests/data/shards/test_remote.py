"""Shards behind an address: fetched whole, one after the other, and kept in bounds."""

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

from helpers.photographs import photographs
from helpers.remote_shards import SHARDS, WAY, cached, config, gib, opened, packed
from helpers.web_server import serving
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import eval_batches, train_batches
from resnetlab.data.open_dataset import list_dataset, open_data
from resnetlab.data.registry import dataset_title, detect_kind
from resnetlab.data.sampler import WINDOW
from resnetlab.data.shards import remote
from resnetlab.data.shards.format import ShardEntry, ShardIndex, list_shards
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.training.recipes import recipe
from resnetlab.training.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import fit

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return packed(tmp_path_factory.mktemp("far"))


@pytest.fixture
def server(shards):
    with serving(shards) as server:
        yield server


def test_an_address_is_a_data_set_that_nobody_asks_before_it_is_opened():
    assert detect_kind(DataConfig("https://example.invalid/some/shards")) == "shards"
    assert dataset_title(DataConfig("s3://bucket/some/shards/")) == "shards"


def test_only_indices_are_fetched_to_list_them(server, shards, tmp_path):
    found, here = list_dataset(config(server, tmp_path)), list_shards(shards)
    assert not [name for name in server.asked if name.endswith(".tar")]
    assert found.classes == here.classes
    for split, listing in found.splits.items():
        assert list(listing.names) == list(here.splits[split].names)
        assert list(listing.labels) == list(here.splits[split].labels)
    list_dataset(config(server, tmp_path))
    assert server.asked["index.json"] == 2
    assert server.asked["train-000000.npz"] == 1


def test_indices_are_read_one_at_a_time(server, tmp_path, monkeypatch):
    """In Python 3.11 NumPy's reading in several threads raises SystemError now and then."""
    reading, load = [], np.load

    def alone(file, **options):
        reading.append(file)
        time.sleep(0.005)
        assert len(reading) == 1
        return load(reading.pop(), **options)

    monkeypatch.setattr(np, "load", alone)
    for _ in ("fetched", "from the cache"):
        list_dataset(config(server, tmp_path))


def test_they_hold_what_the_shards_here_hold(server, shards, tmp_path):
    far, near = opened(server, tmp_path), open_data(DataConfig(str(shards), image_size=16), keep_encoded=True)
    assert far.train.shards is not None
    for name, split in far.splits.items():
        assert sorted(split.names) == sorted(near.splits[name].names)
    assert isinstance(far.val.images, EncodedImages)
    assert isinstance(near.val.images, EncodedImages)
    at = [list(near.val.names).index(name) for name in far.val.names]
    assert torch.equal(far.val.images.views(torch.arange(12))[0], near.val.images.views(torch.tensor(at))[0])


@pytest.mark.parametrize("train_images", [None, 30])
def test_equal_images_have_the_fingerprint_that_they_have_here(server, shards, tmp_path, train_images):
    """Whatever order they are read in: a judge knows by it what a network was trained on."""
    near = DataConfig(str(shards), image_size=16, train_images=train_images)
    far = replace(near, name=server.address, root=str(tmp_path))
    ours, theirs = (open_data(data, keep_encoded=True) for data in (far, near))
    assert list(ours.train.names) != list(theirs.train.names)
    assert ours.fingerprint == theirs.fingerprint


def test_what_a_network_was_trained_on_is_known_wherever_it_is_judged(tmp_path):
    source = photographs(tmp_path / "source", train=30, val=0) / "train"
    pack_dataset(DataConfig(str(source)), tmp_path / "shards", PackOptions(shard_mib=1))
    with serving(tmp_path / "shards") as server:
        places = [
            DataConfig(name, root=str(tmp_path), image_size=16)
            for name in (server.address, str(tmp_path / "shards"), str(source))
        ]
        for trained in places:
            data = open_data(trained, keep_encoded=True)
            for judged in places:
                found = open_eval_dataset(judged, data.preprocessing, trained_on=data.fingerprint, keep_encoded=True)
                assert found.name == "test"
                assert sorted(found.split.names) == sorted(data.test.names)


def test_small_images_are_kept_as_if_they_were_here(server, shards, tmp_path):
    far, near = open_data(config(server, tmp_path)), open_data(DataConfig(str(shards), image_size=16))
    assert far.fingerprint == near.fingerprint
    assert far.train.shards is None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_reads_each_shard_once_and_in_windows(server, shards, tmp_path, workers):
    data = opened(server, tmp_path, cache_gib=gib(shards, WINDOW + 1.5))
    held = {path.name for path in cached(tmp_path)}
    server.order.clear()
    batches = list(train_batches(data.train, data.preprocessing, WAY, 0, 0, workers=workers))
    assert len(batches) == SHARDS
    asked = [name for name in server.order if name.startswith("train")]
    # `per_channel` looked at the first ones, which may be there still.
    assert SHARDS - WINDOW - 1 <= len(asked) <= SHARDS
    assert len(set(asked)) == len(asked)
    assert sum(path.stat().st_size for path in cached(tmp_path)) <= gib(shards, WINDOW + 1.5) * 2**30
    assert {path.name for path in cached(tmp_path)} != held


def test_the_epoch_is_a_function_of_seed_and_epoch_and_not_of_the_cache(server, shards, tmp_path):
    def epoch(cache, number, workers, room):
        data = opened(server, cache, cache_gib=gib(shards, room))
        batches = train_batches(data.train, data.preprocessing, WAY, 5, number, workers=workers)
        return torch.cat([images for images, _ in batches])

    first = epoch(tmp_path / "a", 0, 0, WINDOW + 1.1)
    assert torch.equal(first, epoch(tmp_path / "b", 0, 2, 30))
    assert not torch.equal(first, epoch(tmp_path / "b", 1, 2, 30))


def test_it_begins_in_the_middle_where_a_run_is_resumed(server, tmp_path):
    data = opened(server, tmp_path)
    whole = [images for images, _ in train_batches(data.train, data.preprocessing, WAY, 0, 3)]
    shutil.rmtree(tmp_path / "shards")
    again = opened(server, tmp_path)
    server.order.clear()
    rest = [images for images, _ in train_batches(again.train, data.preprocessing, WAY, 0, 3, first_step=8)]
    assert torch.equal(torch.cat(rest), torch.cat(whole[8:]))


def test_shards_come_before_they_are_needed(server, tmp_path):
    data = opened(server, tmp_path)
    batches = train_batches(data.train, data.preprocessing, WAY, 0, 1)
    next(batches)
    until = time.monotonic() + 5
    while len([path for path in cached(tmp_path) if path.stat().st_size > 20_000]) < 2 * WINDOW:
        assert time.monotonic() < until
        time.sleep(0.01)
    batches.close()


def test_validation_reads_shard_after_shard(server, shards, tmp_path):
    data = opened(server, tmp_path)
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "shards").mkdir()
    data = opened(server, tmp_path)
    assert torch.equal(data.train.shards, data.train.shards.sort().values)  # pyright: ignore
    list(eval_batches(data.train, data.preprocessing, 12))
    asked = [name for name in server.order if name.startswith("train") and name.endswith("tar")]
    assert len(asked) == SHARDS * 2  # once before the cache was lost
    assert asked[SHARDS:] == sorted(asked[SHARDS:])


def test_a_training_from_an_address_is_that_of_equal_order(server, tmp_path):
    run = RunConfig(model_config("resnet8"), config(server, tmp_path), recipe("imagenet-90", batch_size=12, epochs=2))
    one = fit(run, session=RuntimeOptions(workers=2, cache_gib=1))
    other = fit(run, session=RuntimeOptions(workers=0, cache_gib=1))
    assert all(torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in one.model.state_dict().items())


def test_a_network_is_judged_on_an_address_within_its_cache(server, shards, tmp_path, capsys):
    run = RunConfig(model_config("resnet8"), DataConfig(str(shards), image_size=16), WAY)
    fit(run, tmp_path / "run", session=RuntimeOptions(workers=0))
    words = [
        "evaluate",
        str(tmp_path / "run"),
        "--data",
        server.address,
        "--data-root",
        str(tmp_path / "cache"),
        "--json",
        "--device",
        "cpu",
        "--cache-gib",
    ]
    capsys.readouterr()
    assert main([*words, "1"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 12
    assert main([*words, str(gib(shards, WINDOW))]) == 2
    assert re.fullmatch(r"resnetlab: a cache of .* --cache-gib [\d.e-]+ or more\n", capsys.readouterr().err)
    assert main([*words, "0"]) == 2
    assert capsys.readouterr().err == "resnetlab: cache-gib must be above 0, and a number, not 0\n"


@pytest.mark.parametrize(("action", "counted"), [("check", "images"), ("pack", "samples")])
def test_an_address_is_checked_and_packed_within_its_cache(server, shards, tmp_path, capsys, action, counted):
    out = ["--out", str(tmp_path / "out")] if action == "pack" else []
    words = ["data", action, server.address, *out, "--data-root", str(tmp_path / "cache"), "--json", "--cache-gib"]
    assert main([*words, str(gib(shards, WINDOW + 2))]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"][counted] == 120
    assert len([path for path in cached(tmp_path / "cache") if path.stat().st_size > 20_000]) <= WINDOW + 2
    assert main([*words, str(gib(shards, WINDOW))]) == 2
    assert re.fullmatch(r"resnetlab: a cache of .* --cache-gib [\d.e-]+ or more\n", capsys.readouterr().err)


def test_a_cache_that_is_too_small_is_refused(server, shards, tmp_path):
    with pytest.raises(ConfigError, match=r"a cache of .* GiB does not hold 5 of these shards.*--cache-gib"):
        opened(server, tmp_path, cache_gib=gib(shards, WINDOW))


@pytest.mark.parametrize("num_bytes", [40_960, 1_048_576, 3_610_624, 268_439_552])
def test_the_cache_that_is_advised_suffices(num_bytes):
    index = ShardIndex((), {"train": (ShardEntry("a.tar", 1, num_bytes, "", ""),)})
    with pytest.raises(ConfigError) as refused:
        remote._check_room(index, 1e-9)
    advised = re.search(r"--cache-gib (\S+) or more", str(refused.value))
    assert advised
    remote._check_room(index, float(advised[1]))
    assert float(advised[1]) < 1.01 * (WINDOW + 1) * num_bytes / 2**30


def test_the_least_recently_used_leave(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TOUCH_S", 0.0)
    data = opened(server, tmp_path, cache_gib=gib(shards, WINDOW + 2))
    images = data.train.images
    assert isinstance(images, EncodedImages)
    first = data.train.shards.unique_consecutive(return_counts=True)[1].cumsum(0) - 1  # pyright: ignore
    for shard in range(SHARDS):
        images.views(first[shard : shard + 1])
    names = {entry.sha256 for entry in [shard.entry for shard in images.places.shards]}  # pyright: ignore
    order = [shard.entry.sha256 for shard in images.places.shards[:SHARDS]]  # pyright: ignore
    left = {path.name for path in cached(tmp_path)} & names
    assert WINDOW < len(left) < SHARDS
    assert left == set(order[-len(left) :])


def read_all(address, cache, sums):
    data = open_data(DataConfig(address, root=cache, image_size=16), keep_encoded=True, cache_gib=1.0)
    batches = train_batches(data.train, data.preprocessing, WAY, 0, 0, workers=2)
    sums.put(float(sum(images.double().abs().sum() for images, _ in batches)))


@pytest.mark.slow
def test_processes_share_the_cache(server, tmp_path):
    context = multiprocessing.get_context("spawn")
    sums = context.Queue()
    workers = [context.Process(target=read_all, args=(server.address, str(tmp_path), sums)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [sums.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert len(set(found)) == 1
    for number in range(SHARDS):
        assert server.asked[f"train-{number:06}.tar"] == 1


@pytest.mark.slow
def test_processes_of_torchrun_train_as_one_and_fetch_each_shard_once(server, tmp_path):
    words = [
        "-m",
        "resnetlab",
        "train",
        "--data",
        server.address,
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
    together = [
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
    for name, launcher in (("one", []), ("two", together)):
        server.asked.clear()
        out = tmp_path / name
        done = subprocess.run(
            [sys.executable, *launcher, *words, "--data-root", out / "cache", "--out", out / "run"],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert {server.asked[f"train-{number:06}.tar"] for number in range(SHARDS)} == {1}
        losses += [
            torch.tensor(line["curve"]["loss"])
            for line in read_record(out / "run" / "record.jsonl")
            if line["kind"] == "epoch"
        ]
    assert len(losses[0]) == SHARDS
    assert (losses[0] - losses[1])[:5].abs().max() < 1e-4  # before rounding has grown


def test_any_address_that_fsspec_reads_will_do(shards, tmp_path):
    data = open_data(DataConfig(f"file://{shards}", root=str(tmp_path), image_size=16), keep_encoded=True)
    assert len(list(train_batches(data.train, data.preprocessing, WAY, 0, 0))) == SHARDS
