"""Packing: content and order of shards, bad images, and repeated calls."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from helpers.images import encode, random_images, write_parquet
from helpers.photographs import CLASSES, write_photographs
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.decode import decode, read_header
from resnetlab.data.images.scan import BadDataError
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards import pack as packing
from resnetlab.data.shards.format import read_index
from resnetlab.data.shards.pack import PackOptions, pack_dataset

from conftest import resnetlab

SMALL = PackOptions(shard_mib=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "insects")


@pytest.fixture
def several_shards(monkeypatch):
    """Add a large overhead to each sample, so that there are several shards."""
    monkeypatch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", 60_000)


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # pyright: ignore


def all_members(out: Path, split: str) -> dict[str, bytes]:
    found = {}
    for shard in sorted(out.glob(f"{split}-*.tar")):
        found |= members(shard)
    return found


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}


def test_samples_have_webdataset_names(folder, tmp_path, several_shards):
    index = pack_dataset(DataConfig(str(folder)), tmp_path / "out", SMALL)
    assert len(index.splits["train"]) == 4
    found = all_members(tmp_path / "out", "train")
    keys = sorted({name.partition(".")[0] for name in found})
    assert keys == [f"{number:08}" for number in range(60)]
    for key in keys:
        metadata = json.loads(found[f"{key}.json"])
        image = found.get(f"{key}.jpg", found.get(f"{key}.png"))
        assert image == (folder / metadata["name"]).read_bytes()
        assert f"{key}.{'png' if metadata['name'].endswith('.png') else 'jpg'}" in found
        assert metadata["class"] == Path(metadata["name"]).parent.name == CLASSES[int(found[f"{key}.cls"])]
    assert [name.partition(".")[0] for name in list(found)[:4]] == ["00000000"] * 3 + ["00000001"]
    assert [Path(name).suffix for name in list(found)[1:3]] == [".cls", ".json"]


def test_samples_are_shuffled(folder, tmp_path):
    pack_dataset(DataConfig(str(folder)), tmp_path / "out", SMALL)
    found = all_members(tmp_path / "out", "train")
    labels = [int(data) for name, data in found.items() if name.endswith(".cls")]
    changes = sum(a != b for a, b in pairwise(labels))
    assert changes > 25
    assert sorted(labels) == [0] * 20 + [1] * 20 + [2] * 20


def test_the_index_describes_the_images(folder, tmp_path):
    out = tmp_path / "out"
    index = pack_dataset(DataConfig(str(folder)), out, SMALL)
    assert read_index((out / "index.json").read_bytes(), "") == index
    for entries in index.splits.values():
        for entry in entries:
            content = (out / entry.file).read_bytes()
            assert hashlib.sha256(content).hexdigest() == entry.sha256
            assert len(content) == entry.bytes
            assert hashlib.sha256((out / entry.index_file).read_bytes()).hexdigest() == entry.index_sha256
    listing = list_dataset(DataConfig(str(out))).splits["train"]
    for name, storage, size in zip(listing.names, listing.storage, listing.sizes.tolist(), strict=True):  # pyright: ignore
        data = storage.read()  # pyright: ignore
        assert data == (folder / name).read_bytes()
        header = read_header(data)
        assert [header.height, header.width] == size


def test_the_number_of_workers_does_not_change_the_files(folder, tmp_path, several_shards):
    for name, workers in (("one", 1), ("other", 3)):
        pack_dataset(DataConfig(str(folder)), tmp_path / name, SMALL, workers=workers)
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_max_side_resizes_larger_images(tmp_path):
    source = write_photographs(tmp_path / "source", sides=(20, 60))
    index = pack_dataset(DataConfig(str(source)), tmp_path / "out", PackOptions(max_side=32, shard_mib=1))
    found = all_members(tmp_path / "out", "train")
    changed = 0
    for name, data in found.items():
        if not name.endswith((".jpg", ".png")):
            continue
        original = (source / json.loads(found[f"{name.partition('.')[0]}.json"])["name"]).read_bytes()
        before, after = read_header(original), read_header(data)
        if min(before.height, before.width) <= 32:
            assert data == original
            continue
        changed += 1
        assert after.format == "JPEG"
        assert name.endswith(".jpg")
        assert min(after.height, after.width) == 32
        assert abs(after.height / after.width - before.height / before.width) < 0.04
        small, large = decode(data).astype(int), decode(original).astype(int)
        assert abs(small.mean((0, 1)) - large.mean((0, 1))).max() < 4
    assert changed > 10
    assert index.packed["max_side"] == 32
    sizes = open_data(DataConfig(str(tmp_path / "out")), keep_encoded=True).train.images.sizes  # pyright: ignore
    assert int(sizes.min(1).values.max()) == 32


def test_a_resized_image_has_the_same_content(tmp_path):
    smooth = np.linspace(0, 255, 200 * 300 * 3).reshape(200, 300, 3).astype(np.uint8)
    from resnetlab.data.shards.writer import encode_sample

    sample = encode_sample(encode(smooth), PackOptions(max_side=100), 10**8)
    assert (sample.height, sample.width, sample.suffix) == (100, 150, "jpg")
    assert np.abs(decode(sample.data).astype(int) - smooth[::2, ::2].astype(int)).mean() < 3


def test_a_stopped_packing_continues(folder, tmp_path, several_shards, monkeypatch):
    config, complete, out = DataConfig(str(folder)), tmp_path / "complete", tmp_path / "out"
    pack_dataset(config, complete, SMALL)
    write, written = packing.write_shard, []

    def write_or_stop(out, plan, *args, **options):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(plan.name)
        return write(out, plan, *args, **options)

    monkeypatch.setattr(packing, "write_shard", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(config, out, SMALL, workers=1)
    assert not (out / "index.json").exists()
    with pytest.raises(ConfigError, match=f"^{out}: packing was not finished; run the same resnetlab data pack "):
        open_data(DataConfig(str(out)))
    (out / f"{written[1]}.tar").write_bytes(b"cut short")  # as after a power cut
    (out / ".train-000003.tar").write_bytes(b"partial")
    monkeypatch.setattr(
        packing, "write_shard", lambda out, plan, *a, **b: (written.append(plan.name), write(out, plan, *a, **b))[1]
    )
    pack_dataset(config, out, SMALL, workers=1)
    assert written.count("train-000000") == 1
    assert written.count("train-000001") == 2
    assert files(out) == files(complete)


def test_the_output_must_lie_outside_the_source(tmp_path):
    source = write_photographs(tmp_path / "source", train=12)
    for out in (source, source / "train" / "shards"):
        with pytest.raises(ConfigError, match=rf"^{out} lies inside {source}, the data to pack; give "):
            pack_dataset(DataConfig(str(source)), out, SMALL)
    assert not (source / "train" / "shards").exists()


@pytest.mark.parametrize("options", [{"max_side": 0}, {"shard_mib": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="must be at least 1, not 0"):
        PackOptions(**options)


def test_large_samples_have_a_shard_each(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", 6 << 20)
    index = pack_dataset(DataConfig(str(folder)), tmp_path / "out", SMALL)
    assert {split: [entry.samples for entry in entries] for split, entries in index.splits.items()} == {
        "train": [1] * 60,
        "val": [1] * 12,
    }


@pytest.fixture
def damaged(tmp_path):
    source = write_photographs(tmp_path / "damaged")
    (source / "train/ant/000.png").write_bytes(b"no image")
    (source / "train/bee/001.jpeg").write_bytes(b"")
    return source


@pytest.mark.parametrize(("overhead", "at_least"), [(60_000, "at least "), (0, "")])
def test_images_that_were_not_looked_at_are_not_counted(damaged, tmp_path, monkeypatch, overhead, at_least):
    monkeypatch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", overhead)
    source = shutil.copytree(damaged / "train", tmp_path / "all")
    with pytest.raises(BadDataError, match=rf"^{at_least}[12] of 60 images cannot be read"):
        pack_dataset(DataConfig(str(source)), tmp_path / "out", SMALL, workers=1)


def test_bad_images_are_reported(damaged, tmp_path):
    with pytest.raises(BadDataError, match=r"2 of 72 images cannot be read: .*--on-bad-image skip") as caught:
        pack_dataset(DataConfig(str(damaged)), tmp_path / "out", SMALL)
    assert sorted(caught.value.bad) == [
        "train/ant/000.png: a text file, not an image",
        "train/bee/001.jpeg: is empty",
    ]
    assert not list((tmp_path / "out").glob("*train*"))
    for name in ("train/ant/000.png", "train/bee/001.jpeg"):  # repaired images have other modification times
        (damaged / name).write_bytes(encode(random_images(1)[0]))
    assert pack_dataset(DataConfig(str(damaged)), tmp_path / "out", SMALL).left_out == ()


def test_bad_images_can_be_left_out(damaged, tmp_path):
    config = DataConfig(str(damaged), on_bad_image="skip")
    index = pack_dataset(config, tmp_path / "out", SMALL)
    assert len(index.left_out) == 2
    assert sum(entry.samples for entry in index.splits["train"]) == 58
    assert pack_dataset(config, tmp_path / "out", SMALL) == index
    ours, theirs = (
        open_data(DataConfig(str(path), on_bad_image="skip"), keep_encoded=True) for path in (tmp_path / "out", damaged)
    )
    assert ours.fingerprint == theirs.fingerprint
    assert "2 images were left out when this was packed; index.json lists them" in ours.warnings


def test_parquet_and_shards_can_be_packed(tmp_path):
    some = [encode(image) for image in random_images(8)]
    source = write_parquet(tmp_path / "rows" / "train-00000-of-00001.parquet", some, [0, 1] * 4, ["no", "yes"]).parent
    pack_dataset(DataConfig(str(source)), tmp_path / "one", SMALL)
    pack_dataset(DataConfig(str(tmp_path / "one")), tmp_path / "two", PackOptions(shard_mib=2))
    opened = [open_data(DataConfig(str(path))) for path in (source, tmp_path / "one", tmp_path / "two")]
    assert len({data.fingerprint for data in opened}) == 1
    assert "train-00000-of-00001.parquet row 0" in [*opened[2].train.names, *opened[2].val.names]


def test_the_data_command_packs_and_checks(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", "pack", str(folder), "--out", str(out), "--shard-mib", "1"]) == 0
    output = capsys.readouterr().out
    assert "train: 60 images in 1 shard," in output
    assert f"train on it with --data {out}\n" in output
    assert main(["data", "check", str(out)]) == 0
    assert "every image can be read" in capsys.readouterr().out
    content = bytearray((out / "train-000000.tar").read_bytes())
    content[700] ^= 255
    (out / "train-000000.tar").write_bytes(content)
    assert main(["data", "check", str(out)]) == 1
    output = capsys.readouterr().out
    assert "train-000000.tar: its SHA-256 differs from index.json" in output
    assert ".jpeg" not in output  # no image is to blame
    assert main(["data", "pack", str(folder)]) == 2
    output = capsys.readouterr().err
    assert output == "resnetlab: pack needs a folder for the shards; give it with --out\n"
    assert main(["data", "check", str(out), "--max-side", "9"]) == 2
    output = capsys.readouterr().err
    assert output == "resnetlab: --max-side requires pack, because check changes nothing; leave it out\n"
    assert main(["data", "pack", str(folder), "--out", str(out)]) == 2
    assert re.fullmatch(r"resnetlab: [^\n]+ with shard-mib 1; give another --out\n", capsys.readouterr().err)


@pytest.mark.slow
def test_a_killed_packing_continues(tmp_path):
    source, out = write_photographs(tmp_path / "source", train=6000, val=30, sides=(60, 90)), tmp_path / "out"
    arguments = [
        sys.executable,
        "-m",
        "resnetlab",
        "data",
        "pack",
        source,
        "--out",
        out,
        "--shard-mib",
        "1",
        "--max-side",
        "40",
        "--workers",
        "2",
    ]
    first = subprocess.Popen([str(word) for word in arguments], stderr=subprocess.DEVNULL)
    while len(list(out.glob("*.npz"))) < 3:
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert not (out / "index.json").exists()
    done = resnetlab(*map(str, arguments[3:]))
    assert done.returncode == 0, done.stderr
    assert made.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}.items()
    assert resnetlab("data", "check", out).returncode == 0
