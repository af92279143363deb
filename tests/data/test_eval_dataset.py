"""Splits for evaluation: held-out images of data that changed since training are refused, never drawn anew."""

from pathlib import Path

import pytest
from PIL import Image

from helpers.images import write_parquet, write_tree
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.eval_dataset import EvalDataset, open_eval_dataset
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data


def write_photos(root: Path, splits: tuple[str, ...] = ("",), number: int = 10) -> Path:
    for split in splits:
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (9, 9), (20 * index, 120 * label, len(split))).save(
                    root / split / name / f"{index}.png"
                )
    return root


def evaluated(
    trained: DataConfig, fingerprint: str, split: str | None, *, data: DataConfig | None = None
) -> EvalDataset:
    seen = open_data(trained).preprocessing
    return open_eval_dataset(data or trained, seen, split, trained_on=fingerprint, training_data=trained)


@pytest.mark.parametrize("change", ["add", "delete"])
@pytest.mark.parametrize("spelling", ["as it was", "relative", "link"])
def test_held_out_images_of_changed_data_are_not_drawn_again(tmp_path, monkeypatch, change, spelling):
    photos = write_photos(tmp_path / "photos")
    trained = DataConfig(str(photos))
    fingerprint = open_data(trained).fingerprint
    assert evaluated(trained, fingerprint, None).split_name == "test"
    if change == "add":
        Image.new("RGB", (9, 9), (1, 2, 3)).save(photos / "cat" / "new.png")
    else:
        (photos / "dog" / "3.png").unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    again = {"as it was": trained, "relative": DataConfig("photos/."), "link": DataConfig("link")}[spelling]
    for split in (None, "test", "val"):
        with pytest.raises(ConfigError, match=r"changed since training.* cannot be drawn again; .*--split all"):
            evaluated(trained, fingerprint, split, data=again)
    for split in ("train", "all"):
        assert evaluated(trained, fingerprint, split, data=again).seen_in_training


def test_no_warning_of_evaluation_is_left_out_for_its_words(tmp_path):
    photos = write_photos(tmp_path / "photos", ("train",))
    few = photos / "train" / "no test split"
    few.mkdir()
    Image.new("RGB", (9, 9)).save(few / "1.png")
    found = evaluated(DataConfig(str(photos)), "", "train")
    assert found.warnings == ("too few images to split: val has no image of class no test split",)


def test_splits_that_the_data_come_with_and_other_data_are_evaluated(tmp_path):
    photos = write_photos(tmp_path / "photos", ("train", "test"))
    trained = DataConfig(str(photos))
    fingerprint = open_data(trained).fingerprint
    (photos / "train" / "dog" / "3.png").unlink()
    for split in (None, "test"):
        found = evaluated(trained, fingerprint, split)
        assert (found.split_name, found.seen_in_training, len(found.split)) == ("test", False, 20)
    with pytest.raises(ConfigError, match="cannot be drawn again"):
        evaluated(trained, fingerprint, "val")  # was held out of train/
    other = DataConfig(str(write_photos(tmp_path / "elsewhere" / "photos", number=12)))
    whole = evaluated(trained, fingerprint, None, data=other)
    assert (whole.split_name, whole.seen_in_training, len(whole.split)) == ("all", False, 24)
    assert not evaluated(trained, fingerprint, "test", data=other).seen_in_training


@pytest.mark.parametrize("kind", ["folder", "splits", "table", "parquet"])
def test_images_of_one_class_are_for_evaluation_alone(tmp_path, kind):
    """Whether the network's training data are known or not."""
    root = {"splits": tmp_path / "splits" / "train"}.get(kind, tmp_path / kind)
    write_tree(root, {"cat": 3})
    path = root.parent if kind == "splits" else root
    if kind == "table":
        path = root / "labels.csv"
        path.write_text("file,label\n" + "".join(f"cat/00{number}.png,cat\n" for number in range(3)))
    if kind == "parquet":
        images = [file.read_bytes() for file in sorted(root.glob("*/*.png"))]
        path = write_parquet(tmp_path / "train.parquet", images, ["cat"] * 3)
    config = DataConfig(str(path))
    for trained_on in (None, "0" * 64):
        found = open_eval_dataset(config, Preprocessing(8, (0.5,) * 3, (0.5,) * 3), "all", trained_on=trained_on)
        assert (found.classes, len(found.split)) == (("cat",), 3)
    for open_training_data in (open_data, list_dataset):
        with pytest.raises(ConfigError, match="there is only one class, cat; a classifier needs two or more"):
            open_training_data(config)
