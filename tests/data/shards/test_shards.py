"""Reading shards: they hold the same data as the packed folder, and damaged files are reported."""

import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.photographs import CLASSES, write_photographs
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import detect_kind
from resnetlab.data.shards.format import pack_rows, read_arrays
from resnetlab.data.shards.local import find_damaged, list_shards
from resnetlab.data.shards.pack import PackOptions, pack_dataset
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences, without_times
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions

SHARD = "train-000000"
ENTRY = {"file": "a.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64, "index_sha256": "0" * 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "insects")


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


def test_the_index_marks_a_folder_of_shards(shards, tmp_path):
    assert detect_kind(DataConfig(str(shards))) == "shards"
    (tmp_path / "cat").mkdir()
    (tmp_path / "index.json").write_text('{"somebody": "else\'s"}')
    assert detect_kind(DataConfig(str(tmp_path))) == "folder"


def test_shards_and_folder_open_alike(folder, shards):
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
            assert torch.equal(split.images.decode_eval_views(samples)[0], other.images.decode_eval_views(samples)[0])


def test_shards_and_folder_are_resident_alike(folder, shards):
    ours, theirs = (open_data(DataConfig(str(path), image_size=16)) for path in (shards, folder))
    assert isinstance(ours.train.images, torch.Tensor)
    assert ours.fingerprint == theirs.fingerprint


def test_listing_opens_no_image(shards, monkeypatch):
    monkeypatch.setattr("resnetlab.data.images.scan.read_header", None)
    assert len(opened(shards, preprocessing=opened(shards).preprocessing).train) == 60


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_shards_and_folder_is_identical_to_the_bit(folder, shards, workers, tmp_path):
    training_recipe = recipe("imagenet-90", batch_size=12, epochs=2, lr=0.02)
    for name, path in (("folder", folder), ("shards", shards)):
        config = RunConfig(model_config("resnet8"), DataConfig(str(path), image_size=16), training_recipe, device="cpu")
        fit(config, tmp_path / name, options=RuntimeOptions(workers=workers))
    assert run_differences(tmp_path / "folder", tmp_path / "shards") == ["line 1 of the record differs"]
    one, other = (read_record(tmp_path / name / "record.jsonl") for name in ("folder", "shards"))
    assert one[0]["config"]["data"].pop("name") != other[0]["config"]["data"].pop("name")
    assert without_times(one) == without_times(other)
    assert all(line["worker_images_per_s"] > 0 for line in one if line["kind"] == "epoch")


def test_evaluation_splits_are_those_of_the_folder(folder, shards):
    seen = opened(folder).preprocessing
    ours, theirs = (open_eval_dataset(DataConfig(str(path)), seen, keep_encoded=True) for path in (shards, folder))
    assert ours.split_name == theirs.split_name == "val"
    assert list(ours.split.names) == list(theirs.split.names)
    every = [
        open_eval_dataset(DataConfig(str(path)), seen, "all", trained_on="x", keep_encoded=True)
        for path in (shards, folder)
    ]
    assert list(every[0].split.names) == list(every[1].split.names)
    assert torch.equal(every[0].split.labels, every[1].split.labels)


def test_listings_use_packed_columns(shards):
    listing = list_dataset(DataConfig(str(shards))).splits["train"]
    assert listing.sizes is not None
    assert listing.sizes.shape == (60, 2)
    assert listing.shards is None
    assert listing.names[0].startswith("train/")
    assert not isinstance(listing.names, tuple | list)
    assert not isinstance(listing.storage, tuple | list)


def listing_error(folder) -> str:
    with pytest.raises(ConfigError) as caught:
        list_shards(folder)
    return str(caught.value).replace(str(folder), "DIR")


def replace_index(folder, **arrays) -> None:
    """Replace the first shard's index, and update its SHA-256 in index.json, which loses its own."""
    path, index = folder / f"{SHARD}.npz", folder / "index.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    np.savez(path, **arrays)
    content = json.loads(index.read_text().replace(before, hashlib.sha256(path.read_bytes()).hexdigest()))
    del content["sha256"]
    index.write_text(json.dumps(content))


def test_missing_and_truncated_shards_are_refused(copy):
    shard = copy / f"{SHARD}.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10_240])
    assert listing_error(copy) == (
        f"DIR/{SHARD}.tar: has {len(content) - 10_240:,} bytes instead of {len(content):,}; pack it again"
    )
    shard.unlink()
    assert listing_error(copy) == f"DIR/{SHARD}.tar: cannot be read (No such file or directory); pack it again"


def test_damaged_indices_are_refused(copy):
    index = copy / f"{SHARD}.npz"
    content = index.read_bytes()
    index.write_bytes(content[:200])
    message = f"DIR/{SHARD}.npz: its SHA-256 differs from index.json; pack it again, or copy it again"
    assert listing_error(copy) == message
    index.write_bytes(b"")
    assert listing_error(copy) == message
    with pytest.raises(ConfigError, match=r"^X: damaged \("):
        read_arrays(content[:200], "X")
    index.unlink()
    assert "cannot be read" in listing_error(copy)


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
def test_values_out_of_range_are_refused(copy, column, value):
    path = copy / f"{SHARD}.npz"
    arrays = read_arrays(path.read_bytes(), "")
    arrays[column][7] = value
    replace_index(copy, **arrays)
    assert "does not fit train-000000.tar of" in listing_error(copy)


def test_invalid_npz_files_are_reported(shards):
    npy = io.BytesIO()
    np.save(npy, np.arange(3))
    packed = bytearray((shards / f"{SHARD}.npz").read_bytes())
    packed[packed.index(b"PK\x01\x02") + 10] = 99  # an unknown compression method
    for data in (npy.getvalue(), bytes(packed)):
        with pytest.raises(ConfigError, match=r"^X: damaged \(.*\); pack it again, or download it again"):
            read_arrays(data, "X")


@pytest.mark.parametrize(("name", "array"), [("ends", np.array(3)), ("text", np.zeros((2, 2), np.uint8))])
def test_arrays_of_the_wrong_shape_are_refused(copy, name, array):
    replace_index(copy, **read_arrays((copy / f"{SHARD}.npz").read_bytes(), "") | {name: array})
    assert listing_error(copy) == f"DIR/{SHARD}.npz: does not fit train-000000.tar of 60 samples; pack it again"


def test_object_arrays_are_not_unpickled(copy):
    path = copy / f"{SHARD}.npz"
    arrays = read_arrays(path.read_bytes(), "")
    arrays["label"] = np.array([{"an": "object"}] * len(arrays["label"]), object)
    replace_index(copy, **arrays)
    assert listing_error(copy).startswith(f"DIR/{SHARD}.npz: damaged (Object arrays cannot be loaded")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "resnetlab shards 2"}, "has format 'resnetlab shards 2', but this version reads"),
        ({"splits": {}}, "has splits none, but needs train or all"),
        ({"splits": {"val": []}}, "has splits val, but needs train or all"),
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
            "'../../etc/passwd.tar' is not the name of a shard",
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
        ({"splits": {"train": [ENTRY], "val": [ENTRY]}}, "'a.tar' is listed twice"),
        ({"classes": ["ant", "bee", "ant"]}, "'ant' is listed twice"),
        (
            {"splits": {"train": [{"file": "a.tar", "samples": "1", "bytes": 1, "sha256": "", "index_sha256": ""}]}},
            "ShardEntry.samples must be int",
        ),
    ],
)
def test_invalid_index_json_is_refused(copy, change, message):
    path = copy / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in listing_error(copy)
    assert listing_error(copy).startswith("DIR/index.json: ")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": "resnetlab shards 1", "splits": ' + '{"a":' * 100_000])
def test_deeply_nested_index_json_is_refused(copy, content):
    (copy / "index.json").write_text(content)
    assert listing_error(copy).startswith("DIR/index.json: not an index of shards (maximum recursion depth exceeded")
    assert listing_error(copy).endswith("); pack into another folder, or copy it again")


@pytest.mark.parametrize("length", [0, 40, 400])
def test_truncated_index_json_is_refused(copy, length):
    path = copy / "index.json"
    path.write_bytes(path.read_bytes()[:length])
    assert listing_error(copy).startswith("DIR/index.json: ")


def test_changed_files_are_found(copy):
    assert find_damaged(copy, 2) == {}
    for name, at in ((f"{SHARD}.tar", 700), ("val-000000.npz", 300)):
        content = bytearray((copy / name).read_bytes())
        content[at] ^= 1
        (copy / name).write_bytes(content)
    progress = []
    assert find_damaged(copy, 2, lambda done, total: progress.append((done, total))) == {
        "train-000000.tar": "its SHA-256 differs from index.json; pack it again, or copy it again",
        "val-000000.npz": "its SHA-256 differs from index.json; pack it again, or copy it again",
    }
    assert progress == [(1, 2), (2, 2)]


def test_rows_round_trip(shards):
    from resnetlab.data.shards.format import read_index, read_rows

    entry = read_index((shards / "index.json").read_bytes(), "").splits["train"][0]
    rows = read_rows((shards / entry.index_file).read_bytes(), entry, num_classes=3, where="")
    data = pack_rows(rows)
    again = read_rows(data, replace(entry, index_sha256=hashlib.sha256(data).hexdigest()), num_classes=3, where="")
    assert again.names == rows.names
    assert np.array_equal(again.offset, rows.offset)
