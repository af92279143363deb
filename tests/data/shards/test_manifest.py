"""Packing into a folder that holds something: mended, gone on with, or refused; what can never be used is not left."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from helpers.images import encode, parquet, pictures
from helpers.photographs import photographs
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.shards import pack as packing
from resnetlab.data.shards.pack import PackOptions, pack_dataset

SMALL = PackOptions(shard_mib=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("photographs") / "insects")


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """Let every sample weigh so much that there are several shards."""
    monkeypatch.setattr(packing, "PER_SAMPLE", 60_000)


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PER_SAMPLE", 60_000)
        pack_dataset(DataConfig(str(folder)), out, SMALL)
    return out


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != ".lock"}


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def test_a_second_call_does_nothing(folder, tmp_path):
    out = tmp_path / "out"
    first = pack_dataset(DataConfig(str(folder)), out, SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.*")}
    assert pack_dataset(DataConfig(str(folder)), out, SMALL) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.*")} == before


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.npz"])
@pytest.mark.parametrize("harm", [cut, flip, os.unlink])
def test_a_damaged_shard_is_packed_again(folder, packed, copy, name, harm):
    harm(copy / name)
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("*.npz")}
    told = []
    pack_dataset(DataConfig(str(folder)), copy, SMALL, on_progress=lambda *stage: told.append(stage))
    assert files(copy) == files(packed)
    kept = [path.name for path in copy.glob("*.npz") if path.stat().st_mtime_ns == before.get(path.name)]
    assert sorted(kept) == ["train-000000.npz", "train-000002.npz", "train-000003.npz", "val-000000.npz"]
    assert ("checking", 5, 5) in told
    assert told[-1] == ("packing", 72, 72)


def test_mending_may_be_killed_at_any_moment(folder, packed, copy, monkeypatch):
    flip(copy / "train-000001.tar")
    cut(copy / "train-000003.tar")
    unlink = Path.unlink

    def killed(path, *args, **options):
        there = path.exists()
        unlink(path, *args, **options)
        if there:
            raise KeyboardInterrupt

    for _ in range(3):  # after the first damaged file is gone, after the second, after the index
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
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


def test_what_a_killed_packing_had_begun_to_write_goes(folder, packed, copy, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    (new / "..packing.json.x8yzlrmj").write_text("{")  # killed in its very first fsync
    pack_dataset(DataConfig(str(folder)), new, SMALL)
    assert files(new) == files(packed)
    for name in (".train-000000.npz.v_80bctg", ".index.json.j5jhg8jm", ".val-000000.tar", ".packing.json"):
        (copy / name).write_text("{")
    pack_dataset(DataConfig(str(folder)), copy, SMALL)
    assert files(copy) == files(packed)


def test_nothing_else_is_taken_for_such_a_file(folder, tmp_path):
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
        (out / name).write_text("dear")
        with pytest.raises(ConfigError, match="which was not packed; choose an empty folder"):
            pack_dataset(DataConfig(str(folder)), out, SMALL)
        assert (out / name).read_text() == "dear"


def unfinished(config: DataConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack all but the last split."""
    write = packing.write_shard

    def stopping(out, draft, *args, **options):
        if draft.split == "val":
            raise KeyboardInterrupt
        return write(out, draft, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            pack_dataset(config, out, SMALL)


@pytest.mark.parametrize("whole", [False, True])
def test_images_of_other_times_are_refused_and_nothing_is_touched(folder, tmp_path, monkeypatch, whole):
    """Changed at the same length, or a copy: nobody can tell without reading all."""
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    config = DataConfig(str(source))
    pack_dataset(config, out, SMALL) if whole else unfinished(config, out, monkeypatch)
    image = source / "train/ant/000.png"
    before, time_ns = files(out), image.stat().st_mtime_ns
    os.utime(image, ns=(time_ns, time_ns + 1))
    with pytest.raises(ConfigError) as refused:
        pack_dataset(config, out, SMALL)
    assert str(refused.value) == (
        f"{out} was packed from {source} when its files had other times: they were changed since, or these are a copy; "
        "choose another --out, or copy them with their times (cp -a, rsync -t)"
    )
    assert files(out) == before
    kept = shutil.copytree(folder, tmp_path / "elsewhere")  # with its times
    pack_dataset(DataConfig(str(kept)), out, SMALL)


def changed(image: bytes) -> bytes:
    """Return another image of that length."""
    return image[:-20] + bytes([image[-20] ^ 1]) + image[-19:]


def test_rows_count_by_their_content(tmp_path):
    images, rows, out = [encode(picture) for picture in pictures(8)], tmp_path / "train.parquet", tmp_path / "out"
    config = DataConfig(str(parquet(rows, images, [0, 1] * 4)))
    index = pack_dataset(config, out, SMALL)
    os.utime(rows, ns=(0, 0))
    assert pack_dataset(config, out, SMALL) == index
    parquet(rows, [*images[:7], changed(images[7])], [0, 1] * 4)
    with pytest.raises(ConfigError, match="with other images; choose another --out"):
        pack_dataset(config, out, SMALL)


def test_images_in_shards_count_by_their_content(folder, packed, copy, tmp_path):
    index = pack_dataset(DataConfig(str(packed)), tmp_path / "out", SMALL)
    for shard in copy.glob("*.tar"):
        os.utime(shard, ns=(0, 0))
    assert pack_dataset(DataConfig(str(copy)), tmp_path / "out", SMALL) == index
    source = shutil.copytree(folder, tmp_path / "source")
    image = source / "train/ant/000.png"
    image.write_bytes(changed(image.read_bytes()))
    pack_dataset(DataConfig(str(source)), tmp_path / "others", SMALL)
    with pytest.raises(ConfigError, match="with other images; choose another --out"):
        pack_dataset(DataConfig(str(tmp_path / "others")), tmp_path / "out", SMALL)


def test_other_images_or_options_are_refused(folder, tmp_path):
    out, config = tmp_path / "out", DataConfig(str(folder))
    pack_dataset(config, out, SMALL)
    with pytest.raises(ConfigError, match=f"was packed from {folder} with max-side None; choose another --out"):
        pack_dataset(config, out, PackOptions(max_side=20, shard_mib=1))
    with pytest.raises(ConfigError, match="with shard-mib 1; choose another"):
        pack_dataset(config, out, PackOptions(shard_mib=2))
    with pytest.raises(ConfigError, match="with other images; choose another"):
        pack_dataset(DataConfig(str(photographs(tmp_path / "other", train=12))), out, SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letters.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"holds letters.txt, which was not packed; choose an empty folder"):
        pack_dataset(config, tmp_path / "full", SMALL)
    with pytest.raises(ConfigError, match="fits into memory"):
        pack_dataset(DataConfig("digits"), tmp_path / "digits", SMALL)


def test_other_megapixels_are_refused(folder, packed, tmp_path, monkeypatch):
    config = DataConfig(str(folder), max_megapixels=7)
    with pytest.raises(ConfigError, match=f"^{packed} was packed from {folder} with max-megapixels 100; choose anoth"):
        pack_dataset(config, packed, SMALL)
    unfinished(DataConfig(str(folder)), tmp_path / "out", monkeypatch)
    with pytest.raises(ConfigError, match="with max-megapixels 100; choose another --out"):
        pack_dataset(config, tmp_path / "out", SMALL)
    (tmp_path / "out" / ".packing.json").write_text("{")
    with pytest.raises(ConfigError, match=r"\.packing\.json: damaged \(.*\); remove the folder, or choose another"):
        pack_dataset(config, tmp_path / "out", SMALL)


def spoil(source: Path, pattern: str) -> None:
    for path in source.glob(pattern):
        path.write_bytes(b"no image")


def test_what_was_packed_without_bad_images_is_refused_where_all_are_wanted(folder, tmp_path, monkeypatch):
    source = shutil.copytree(folder, tmp_path / "source")
    spoil(source, "train/ant/000.png")
    strict, lenient = DataConfig(str(source)), DataConfig(str(source), on_bad_image="skip")
    pack_dataset(lenient, tmp_path / "out", SMALL)
    with pytest.raises(ConfigError, match=r"out was packed without images that could not be read \(1\); give --on-bad"):
        pack_dataset(strict, tmp_path / "out", SMALL)
    unfinished(lenient, tmp_path / "half", monkeypatch)
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
def test_shards_that_nobody_could_train_on_are_not_left(folder, tmp_path, pattern, gone):
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    spoil(source, pattern)
    with pytest.raises(ConfigError, match=f"{gone}.* left that can be read; replace the bad ones"):
        pack_dataset(DataConfig(str(source), on_bad_image="skip"), out, SMALL)
    assert not out.exists()


def test_a_class_of_which_only_validation_lacks_images_is_no_reason(folder, tmp_path):
    source, out = shutil.copytree(folder, tmp_path / "source"), tmp_path / "out"
    spoil(source, "val/bee/*")
    pack_dataset(DataConfig(str(source), on_bad_image="skip"), out, SMALL)
    assert len(open_data(DataConfig(str(out)), keep_encoded=True).val) == 8


def test_classes_of_one_name_are_refused_before_anything_is_packed(tmp_path, capsys):
    images = [encode(picture) for picture in pictures(6)]
    source = parquet(tmp_path / "train.parquet", images, [0, 1, 2] * 2, ["crane", "dog", "crane"])
    for words in (["pack", str(source), "--out", str(tmp_path / "out")], ["check", str(source)]):
        assert main(["data", *words]) == 2
        assert capsys.readouterr().err == (
            f"resnetlab: {source}: two classes are both called 'crane'; give each a name of its own\n"
        )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named_and_what_works(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["data", "pack", str(folder), "--out", str(out), "--shard-mib", "1"]
    write = packing.write_shard

    def full(out, draft, *args, **options):
        if draft.split == "val":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(out, draft, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_shard", full)
        assert main(words) == 1
    assert capsys.readouterr().err == (
        f"resnetlab: {out} cannot be written (No space left on device); make room, or mend that, then give the same "
        "command again: shards that are whole stay\n"
    )
    assert main(words) == 0
    assert main(["data", "check", str(out)]) == 0
