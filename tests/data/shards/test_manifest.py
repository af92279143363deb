"""Packing into a folder that is not empty: repaired, continued or refused; useless shards are not left behind."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers.images import encode, random_images, write_parquet
from helpers.photographs import write_photographs
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards import pack as packing
from resnetlab.data.shards.pack import PackOptions, pack_dataset

SMALL = PackOptions(shard_mib=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "insects")


@pytest.fixture(autouse=True)
def several_shards(monkeypatch):
    """Add a large overhead to each sample, so that there are several shards."""
    monkeypatch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", 60_000)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SAMPLE_OVERHEAD_BYTES", 60_000)
        pack_dataset(DataConfig(str(folder)), out, SMALL)
    return out


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def test_a_second_call_writes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    first = pack_dataset(DataConfig(str(folder)), out, SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.*")}
    assert pack_dataset(DataConfig(str(folder)), out, SMALL) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.*")} == before


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.npz"])
@pytest.mark.parametrize("damage", [truncate, flip_bit, os.unlink])
def test_a_damaged_shard_is_packed_again(folder, packed, copy, name, damage):
    damage(copy / name)
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.npz")}
    progress = []
    pack_dataset(DataConfig(str(folder)), copy, SMALL, on_progress=lambda *stage: progress.append(stage))
    assert files(copy) == files(packed)
    unchanged = [path.name for path in copy.glob("*.npz") if path.stat().st_mtime_ns == before.get(path.name)]
    assert sorted(unchanged) == ["train-000000.npz", "train-000002.npz", "train-000003.npz", "val-000000.npz"]
    assert ("checking", 5, 5) in progress
    assert progress[-1] == ("packing", 72, 72)


def test_a_repair_may_be_killed_at_any_moment(folder, packed, copy, monkeypatch):
    flip_bit(copy / "train-000001.tar")
    truncate(copy / "train-000003.tar")
    unlink = Path.unlink

    def unlink_and_stop(path, *args, **options):
        existed = path.exists()
        unlink(path, *args, **options)
        if existed:
            raise KeyboardInterrupt

    for _ in range(3):  # after the first damaged file is deleted, after the second, after the index
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink_and_stop)
            with pytest.raises(KeyboardInterrupt):
                pack_dataset(DataConfig(str(folder)), copy, SMALL)
    assert sorted(path.name for path in copy.iterdir() if path.suffix != ".npz") == [
        ".lock",
        ".packing.json",
        "train-000000.tar",
        "train-000002.tar",
        "val-000000.tar",
    ]
    pack_dataset(DataConfig(str(folder)), copy, SMALL)
    assert files(copy) == files(packed)


def test_temporary_files_of_a_killed_packing_are_deleted(folder, packed, copy, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    (new / "..packing.json.x8yzlrmj").write_text("{")  # killed in its very first fsync
    pack_dataset(DataConfig(str(folder)), new, SMALL)
    assert files(new) == files(packed)
    for name in (".train-000000.npz.v_80bctg", ".index.json.j5jhg8jm", ".val-000000.tar", ".packing.json"):
        (copy / name).write_text("{")
    pack_dataset(DataConfig(str(folder)), copy, SMALL)
    assert files(copy) == files(packed)


def test_similar_file_names_are_not_deleted(folder, tmp_path):
    names = [
        ".index.json.backup",
        ".holidays.tar",
        "train-000000.tar",
        ".index.json.x8yzlrmjk",
        "x.index.json.x8yzlrmj",
    ]
    for name in names:
        out = tmp_path / name.strip(".")
        out.mkdir()
        (out / name).write_text("content")
        with pytest.raises(ConfigError, match="which is not a shard; give an empty folder"):
            pack_dataset(DataConfig(str(folder)), out, SMALL)
        assert (out / name).read_text() == "content"


def start_packing(config: DataConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack all but the last split."""
    write = packing.write_shard

    def write_or_stop(out, plan, *args, **options):
        if plan.split == "val":
            raise KeyboardInterrupt
        return write(out, plan, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            pack_dataset(config, out, SMALL)


@pytest.mark.parametrize("whole", [False, True])
def test_changed_modification_times_are_refused(folder, tmp_path, monkeypatch, whole):
    """Content may have changed at the same size; only reading all files would tell."""
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    config = DataConfig(str(source))
    pack_dataset(config, out, SMALL) if whole else start_packing(config, out, monkeypatch)
    image = source / "train/ant/000.png"
    before, time_ns = files(out), image.stat().st_mtime_ns
    os.utime(image, ns=(time_ns, time_ns + 1))
    with pytest.raises(ConfigError) as caught:
        pack_dataset(config, out, SMALL)
    assert str(caught.value) == (
        f"{out} was packed from {source} when its files had other modification times: they were changed or "
        "copied since; give another --out, or copy the files with their times (cp -a, rsync -t)"
    )
    assert files(out) == before
    same_times = shutil.copytree(folder, tmp_path / "elsewhere")
    pack_dataset(DataConfig(str(same_times)), out, SMALL)


def change_content(image: bytes) -> bytes:
    """Return another image of the same length."""
    return image[:-20] + bytes([image[-20] ^ 1]) + image[-19:]


def test_parquet_rows_are_compared_by_content(tmp_path):
    images, rows, out = [encode(image) for image in random_images(8)], tmp_path / "train.parquet", tmp_path / "out"
    config = DataConfig(str(write_parquet(rows, images, [0, 1] * 4)))
    index = pack_dataset(config, out, SMALL)
    os.utime(rows, ns=(0, 0))
    assert pack_dataset(config, out, SMALL) == index
    write_parquet(rows, [*images[:7], change_content(images[7])], [0, 1] * 4)
    with pytest.raises(ConfigError, match="with other images; give another --out"):
        pack_dataset(config, out, SMALL)


def test_images_in_shards_are_compared_by_content(folder, packed, copy, tmp_path):
    index = pack_dataset(DataConfig(str(packed)), tmp_path / "out", SMALL)
    for shard in copy.glob("*.tar"):
        os.utime(shard, ns=(0, 0))
    assert pack_dataset(DataConfig(str(copy)), tmp_path / "out", SMALL) == index
    source = shutil.copytree(folder, tmp_path / "source")
    image = source / "train/ant/000.png"
    image.write_bytes(change_content(image.read_bytes()))
    pack_dataset(DataConfig(str(source)), tmp_path / "others", SMALL)
    with pytest.raises(ConfigError, match="with other images; give another --out"):
        pack_dataset(DataConfig(str(tmp_path / "others")), tmp_path / "out", SMALL)


def test_other_images_or_options_are_refused(folder, tmp_path):
    out, config = tmp_path / "out", DataConfig(str(folder))
    pack_dataset(config, out, SMALL)
    with pytest.raises(ConfigError, match=f"was packed from {folder} with max-side None; give another --out"):
        pack_dataset(config, out, PackOptions(max_side=20, shard_mib=1))
    with pytest.raises(ConfigError, match="with shard-mib 1; give another"):
        pack_dataset(config, out, PackOptions(shard_mib=2))
    with pytest.raises(ConfigError, match="with other images; give another"):
        pack_dataset(DataConfig(str(write_photographs(tmp_path / "other", train=12))), out, SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("content")
    with pytest.raises(ConfigError, match=r"holds notes.txt, which is not a shard; give an empty folder"):
        pack_dataset(config, tmp_path / "full", SMALL)
    with pytest.raises(ConfigError, match="is small and needs no packing"):
        pack_dataset(DataConfig("digits"), tmp_path / "digits", SMALL)


def test_other_megapixels_are_refused(folder, packed, tmp_path, monkeypatch):
    config = DataConfig(str(folder), max_megapixels=7)
    with pytest.raises(ConfigError, match=f"^{packed} was packed from {folder} with max-megapixels 100; give anoth"):
        pack_dataset(config, packed, SMALL)
    start_packing(DataConfig(str(folder)), tmp_path / "out", monkeypatch)
    with pytest.raises(ConfigError, match="with max-megapixels 100; give another --out"):
        pack_dataset(config, tmp_path / "out", SMALL)
    (tmp_path / "out" / ".packing.json").write_text("{")
    with pytest.raises(ConfigError, match=r"\.packing\.json: damaged \(.*\); remove the folder, or give another"):
        pack_dataset(config, tmp_path / "out", SMALL)


def damage_images(source: Path, pattern: str) -> None:
    for path in source.glob(pattern):
        path.write_bytes(b"no image")


def test_shards_without_bad_images_are_refused_in_strict_mode(folder, tmp_path, monkeypatch):
    source = shutil.copytree(folder, tmp_path / "source")
    damage_images(source, "train/ant/000.png")
    strict, lenient = DataConfig(str(source)), DataConfig(str(source), on_bad_image="skip")
    pack_dataset(lenient, tmp_path / "out", SMALL)
    with pytest.raises(ConfigError, match=r"out was packed without 1 images that could not be read; give --on-bad"):
        pack_dataset(strict, tmp_path / "out", SMALL)
    start_packing(lenient, tmp_path / "half", monkeypatch)
    with pytest.raises(ConfigError, match=r"1 of 72 images cannot be read: train/ant/000\.png"):
        pack_dataset(strict, tmp_path / "half", SMALL)
    pack_dataset(lenient, tmp_path / "half", SMALL)
    assert files(tmp_path / "half") == files(tmp_path / "out")


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("train/bee/*", "train has no image of class bee"),
        ("val/*/*", r"val has no image of 3 classes \(ant, bee, "),
        ("*/*/*", "train has no image of 3 classes"),
    ],
)
def test_shards_without_a_class_are_deleted(folder, tmp_path, pattern, gone):
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    damage_images(source, pattern)
    with pytest.raises(ConfigError, match=f"{gone}.* that can be read; replace the bad images"):
        pack_dataset(DataConfig(str(source), on_bad_image="skip"), out, SMALL)
    assert not out.exists()


def test_a_class_may_be_missing_from_validation(folder, tmp_path):
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    damage_images(source, "val/bee/*")
    pack_dataset(DataConfig(str(source), on_bad_image="skip"), out, SMALL)
    assert len(open_data(DataConfig(str(out)), keep_encoded=True).val) == 8


def test_duplicate_class_names_are_refused_before_packing(tmp_path, capsys):
    images = [encode(image) for image in random_images(6)]
    source = write_parquet(tmp_path / "train.parquet", images, [0, 1, 2] * 2, ["crane", "dog", "crane"])
    for words in (["pack", str(source), "--out", str(tmp_path / "out")], ["check", str(source)]):
        assert main(["data", *words]) == 2
        assert capsys.readouterr().err == (
            f"resnetlab: {source}: two classes are both called 'crane'; give each a name of its own\n"
        )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_reported_and_packing_continues_later(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["data", "pack", str(folder), "--out", str(out), "--shard-mib", "1"]
    write = packing.write_shard

    def disk_full(out, plan, *args, **options):
        if plan.split == "val":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(out, plan, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", disk_full)
        assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"resnetlab: {out} cannot be written (No space left on device); solve this, then run the same "
        "command again: complete shards stay\n"
    )
    assert main(arguments) == 0
    assert main(["data", "check", str(out)]) == 0


def test_other_color_profiles_are_other_shards_if_images_are_resized(folder, tmp_path):
    for out, max_side in ((tmp_path / "resized", 20), (tmp_path / "whole", None)):
        applied, ignored = (PackOptions(max_side=max_side, color_profiles=mode) for mode in ("apply", "ignore"))
        first = pack_dataset(DataConfig(str(folder)), out, applied)
        if max_side is None:  # the files are packed as they are
            assert pack_dataset(DataConfig(str(folder)), out, ignored) == first
        else:
            with pytest.raises(ConfigError, match="with color-profiles apply; give another --out"):
                pack_dataset(DataConfig(str(folder)), out, ignored)
            assert pack_dataset(DataConfig(str(folder)), out, applied) == first
