"""Shards are the folder they were packed from; what is damaged is named."""

import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.photographs import CLASSES, photographs
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.open_dataset import list_dataset, open_data
from resnetlab.data.registry import detect_kind
from resnetlab.data.shards.format import find_damaged, list_shards, pack_rows, read_arrays
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.training.compare_runs import run_differences, without_times
from resnetlab.training.recipes import recipe
from resnetlab.training.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.trainer import fit

MADE = "train-000000"
PLAIN = {"file": "a.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64, "index_sha256": "0" * 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs") / "insects")


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "insects"
    pack_dataset(DataConfig(str(folder)), out, PackOptions(shard_mib=1))
    return out


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def opened(path, **options):
    return open_data(DataConfig(str(path)), keep_encoded=True, **options)


def test_a_folder_with_our_index_is_a_data_set(shards, tmp_path):
    assert detect_kind(DataConfig(str(shards))) == "shards"
    (tmp_path / "cat").mkdir()
    (tmp_path / "index.json").write_text('{"somebody": "else\'s"}')
    assert detect_kind(DataConfig(str(tmp_path))) == "folder"


def test_open_they_are_the_folder(folder, shards):
    ours, theirs = opened(shards), opened(folder)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.classes == theirs.classes == CLASSES
    assert ours.preprocessing == theirs.preprocessing
    for name, split in ours.splits.items():
        other = theirs.splits[name]
        assert list(split.names) == list(other.names)
        assert torch.equal(split.labels, other.labels)
        assert split.shards is None
        if len(split):
            assert isinstance(split.images, EncodedImages)
            assert isinstance(other.images, EncodedImages)
            assert torch.equal(split.images.sizes, other.images.sizes)
            samples = torch.arange(len(split))
            assert torch.equal(split.images.views(samples)[0], other.images.views(samples)[0])


def test_resident_they_are_the_folder(folder, shards):
    ours, theirs = (open_data(DataConfig(str(path), image_size=16)) for path in (shards, folder))
    assert isinstance(ours.train.images, torch.Tensor)
    assert ours.fingerprint == theirs.fingerprint


def test_no_image_is_opened_to_list_them(shards, monkeypatch):
    monkeypatch.setattr("resnetlab.data.images.scan.read_header", None)
    assert len(opened(shards, seen_as=opened(shards).preprocessing).train) == 60


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_are_those_of_the_folder_to_the_bit(folder, shards, workers, tmp_path):
    way = recipe("imagenet-90", batch_size=12, epochs=2, lr=0.02)
    for name, path in (("folder", folder), ("shards", shards)):
        config = RunConfig(model_config("resnet8"), DataConfig(str(path), image_size=16), way, device="cpu")
        fit(config, tmp_path / name, session=RuntimeOptions(workers=workers))
    assert run_differences(tmp_path / "folder", tmp_path / "shards") == ["line 1 of the record differs"]
    one, other = (read_record(tmp_path / name / "record.jsonl") for name in ("folder", "shards"))
    assert one[0]["config"]["data"].pop("name") != other[0]["config"]["data"].pop("name")
    assert without_times(one) == without_times(other)
    assert all(line["worker_images_per_s"] > 0 for line in one if line["kind"] == "epoch")


def test_they_are_judged_as_the_folder_is(folder, shards):
    seen = opened(folder).preprocessing
    ours, theirs = (open_eval_dataset(DataConfig(str(path)), seen, keep_encoded=True) for path in (shards, folder))
    assert ours.name == theirs.name == "val"
    assert list(ours.split.names) == list(theirs.split.names)
    every = [
        open_eval_dataset(DataConfig(str(path)), seen, "all", trained_on="x", keep_encoded=True)
        for path in (shards, folder)
    ]
    assert list(every[0].split.names) == list(every[1].split.names)
    assert torch.equal(every[0].split.labels, every[1].split.labels)


def test_columns_are_small(shards):
    listing = list_dataset(DataConfig(str(shards))).splits["train"]
    assert listing.sizes is not None
    assert listing.sizes.shape == (60, 2)
    assert listing.shards is None
    assert listing.names[0].startswith("train/")
    assert not isinstance(listing.names, tuple | list)
    assert not isinstance(listing.places, tuple | list)


def refusal(folder) -> str:
    with pytest.raises(ConfigError) as refused:
        list_shards(folder)
    return str(refused.value).replace(str(folder), "DIR")


def reindex(folder, **arrays) -> None:
    """Write the first shard's index anew, and have index.json believe it."""
    path, index = folder / f"{MADE}.npz", folder / "index.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    np.savez(path, **arrays)
    index.write_text(index.read_text().replace(before, hashlib.sha256(path.read_bytes()).hexdigest()))


def test_a_shard_that_is_missing_or_cut_is_refused(copy):
    shard = copy / f"{MADE}.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10_240])
    assert refusal(copy) == (
        f"DIR/{MADE}.tar: has {len(content) - 10_240:,} bytes, and {len(content):,} were packed; pack it again"
    )
    shard.unlink()
    assert refusal(copy) == f"DIR/{MADE}.tar: cannot be read (No such file or directory); pack it again"


def test_an_index_that_is_damaged_is_refused(copy):
    index = copy / f"{MADE}.npz"
    content = index.read_bytes()
    index.write_bytes(content[:200])
    spoilt = f"DIR/{MADE}.npz: its SHA-256 is not that of index.json; pack it again, or copy it again"
    assert refusal(copy) == spoilt
    index.write_bytes(b"")
    assert refusal(copy) == spoilt
    with pytest.raises(ConfigError, match=r"^X: damaged \("):
        read_arrays(content[:200], "X")
    index.unlink()
    assert "cannot be read" in refusal(copy)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offset", -1),
        ("offset", 1 << 40),
        ("length", -1),
        ("length", 1 << 40),
        ("label", 3),
        ("label", -1),
        ("height", 0),
        ("width", 1 << 20),
        ("ends", 1 << 40),
        ("ends", -5),
    ],
)
def test_an_index_that_cannot_be_is_refused(copy, column, value):
    path = copy / f"{MADE}.npz"
    arrays = read_arrays(path.read_bytes(), "")
    arrays[column][7] = value
    reindex(copy, **arrays)
    assert "does not fit train-000000.tar of" in refusal(copy)


def test_an_index_that_no_reader_of_npz_takes_is_named(shards):
    alone = io.BytesIO()
    np.save(alone, np.arange(3))
    packed = bytearray((shards / f"{MADE}.npz").read_bytes())
    packed[packed.index(b"PK\x01\x02") + 10] = 99  # a way of compressing that there is not
    for data in (alone.getvalue(), bytes(packed)):
        with pytest.raises(ConfigError, match=r"^X: damaged \(.*\); pack it again, or fetch it again"):
            read_arrays(data, "X")


@pytest.mark.parametrize(("name", "array"), [("ends", np.array(3)), ("text", np.zeros((2, 2), np.uint8))])
def test_an_index_with_arrays_of_another_shape_is_refused(copy, name, array):
    reindex(copy, **read_arrays((copy / f"{MADE}.npz").read_bytes(), "") | {name: array})
    assert refusal(copy) == f"DIR/{MADE}.npz: does not fit train-000000.tar of 60 samples; pack it again"


def test_an_index_with_objects_is_not_unpickled(copy):
    path = copy / f"{MADE}.npz"
    arrays = read_arrays(path.read_bytes(), "")
    arrays["label"] = np.array([{"an": "object"}] * len(arrays["label"]), object)
    reindex(copy, **arrays)
    assert refusal(copy).startswith(f"DIR/{MADE}.npz: damaged (Object arrays cannot be loaded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "resnetlab shards 2"}, "its format is 'resnetlab shards 2', and this version reads"),
        ({"splits": {}}, "its splits are none; train, or all, is needed"),
        ({"splits": {"val": []}}, "its splits are val; train, or all, is needed"),
        ({"splits": 5}, "not an index of shards"),
        ({"classes": None}, "not an index of shards"),
        (
            {
                "splits": {
                    "train": [
                        {"file": "../../etc/passwd.tar", "samples": 1, "bytes": 1, "sha256": "", "index_sha256": ""}
                    ]
                }
            },
            "'../../etc/passwd.tar' is no name of a shard",
        ),
        (
            {
                "splits": {
                    "train": [
                        {"file": "a.tar", "samples": 1, "bytes": 1, "sha256": "../../home", "index_sha256": "0" * 64}
                    ]
                }
            },
            "a.tar has no SHA-256",
        ),
        (
            {
                "splits": {
                    "train": [
                        {"file": "a.tar", "samples": -1, "bytes": 1, "sha256": "0" * 64, "index_sha256": "0" * 64}
                    ]
                }
            },
            "a.tar has -1 samples in 1 bytes",
        ),
        ({"splits": {"train": [{"file": "a.tar"}]}}, "not an index of shards"),
        ({"splits": {"train": [PLAIN], "val": [PLAIN]}}, "'a.tar' is listed twice"),
        ({"classes": ["ant", "bee", "ant"]}, "'ant' is listed twice"),
        (
            {"splits": {"train": [{"file": "a.tar", "samples": "1", "bytes": 1, "sha256": "", "index_sha256": ""}]}},
            "Entry.samples must be int",
        ),
    ],
)
def test_an_index_json_that_says_nonsense_is_refused(copy, change, message):
    path = copy / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in refusal(copy)
    assert refusal(copy).startswith("DIR/index.json: ")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": "resnetlab shards 1", "splits": ' + '{"a":' * 100_000])
def test_an_index_json_that_is_nested_too_deeply_is_refused(copy, content):
    (copy / "index.json").write_text(content)
    assert refusal(copy).startswith("DIR/index.json: not an index of shards (maximum recursion depth exceeded")
    assert refusal(copy).endswith("); pack into another folder, or copy it again")


@pytest.mark.parametrize("length", [0, 40, 400])
def test_an_index_json_that_was_cut_is_refused(copy, length):
    path = copy / "index.json"
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(copy).startswith("DIR/index.json: ")


def test_what_was_changed_since_is_found(copy):
    assert find_damaged(copy, 2) == {}
    for name, at in ((f"{MADE}.tar", 700), ("val-000000.npz", 300)):
        content = bytearray((copy / name).read_bytes())
        content[at] ^= 1
        (copy / name).write_bytes(content)
    told = []
    assert find_damaged(copy, 2, lambda done, total: told.append((done, total))) == {
        "train-000000.tar": "its SHA-256 is not that of index.json; pack it again, or copy it again",
        "val-000000.npz": "its SHA-256 is not that of index.json; pack it again, or copy it again",
    }
    assert told == [(1, 2), (2, 2)]


def test_rows_go_there_and_back(shards):
    from resnetlab.data.shards.format import read_index, read_rows

    entry = read_index((shards / "index.json").read_bytes(), "").splits["train"][0]
    rows = read_rows((shards / entry.index_file).read_bytes(), entry, 3, "")
    data = pack_rows(rows)
    again = read_rows(data, replace(entry, index_sha256=hashlib.sha256(data).hexdigest()), 3, "")
    assert again.names == rows.names
    assert np.array_equal(again.offset, rows.offset)
