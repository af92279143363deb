"""The layout of ILSVRC-2012, as unpacked from the challenge's and from Kaggle's archives."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from resnetlab.config import ConfigError
from resnetlab.data.readers.folder import list_folder

WNIDS = ("n01440764", "n02012849", "n03126707")
WORDS = ("tench, Tinca tinca", "crane", "crane")
TRUTH = (2, 0, 1, 1, 2)
"""Class index of each of five validation images."""


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "JPEG")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "imagenet"
    for wnid in WNIDS:
        write_image(root / "train" / wnid / f"{wnid}_1.JPEG")
    for number in range(1, 6):
        write_image(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    return root


def add_development_kit(root):
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {0: 2, 1: 3, 2: 1}  # the kit has its own order
    rows = np.array([(numbers[at], WNIDS[at], WORDS[at]) for at in (2, 0, 1)], dtype=object)
    table = np.array([tuple(row) for row in rows], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    savemat(data / "meta.mat", {"synsets": table})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(numbers[at]) for at in TRUTH) + "\n")


def add_kaggle_lists(root):
    rows = [f"ILSVRC2012_val_{number:08},{WNIDS[at]} 1 2 3 4" for number, at in enumerate(TRUTH, start=1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("\n".join(f"{w} {words}" for w, words in zip(WNIDS, WORDS)))  # noqa: B905


def add_synset_labels(root):
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS[at] for at in TRUTH))


@pytest.mark.parametrize("add_list", [add_development_kit, add_kaggle_lists, add_synset_labels])
def test_flat_validation(tree, add_list):
    add_list(tree)
    listing = list_folder(tree)
    val = listing.splits["val"]
    assert {name[-13:-5]: label for name, label in zip(val.names, val.labels, strict=True)} == {
        f"{number:08}": at for number, at in enumerate(TRUTH, start=1)
    }
    assert listing.classes == (
        WNIDS if add_list is add_synset_labels else ("tench", "crane (n02012849)", "crane (n03126707)")
    )
    assert list(listing.splits["train"].labels) == [0, 1, 2]


@pytest.mark.parametrize("first", [True, False])
def test_other_files_are_reported_in_any_listing_order(tree, monkeypatch, first):
    """The file system may list `b` and `labels.txt`, which are not images, before or after the images."""
    add_synset_labels(tree)
    for name in ("b", "labels.txt"):
        (tree / "val" / name).touch()
    (tree / "val" / "empty").mkdir()
    for name in ("mine.JPEG", "ILSVRC2012_val_1.JPEG"):
        write_image(tree / "val" / name)
    listed = sorted(path.name for path in (tree / "val").iterdir())
    order = [tree / "val" / name for name in sorted(listed, key=lambda name: name.startswith("ILSVRC") == first)]
    iterdir = type(tree).iterdir
    monkeypatch.setattr(type(tree), "iterdir", lambda path: iter(order) if path.name == "val" else iterdir(path))
    listing = list_folder(tree)
    assert len(listing.splits["val"]) == 5
    assert listing.warnings == (
        "ignored files that are not images: 2 .txt, 1 b",
        "ignored 1 folder that is not read: val/empty/",
        "ignored 2 images outside any class folder: val/ILSVRC2012_val_1.JPEG, val/mine.JPEG",
    )


def test_class_folders_take_precedence_over_flat_images(tree):
    write_image(tree / "val" / WNIDS[1] / "mine.JPEG")
    listing = list_folder(tree)
    assert listing.splits["val"].names == [f"val/{WNIDS[1]}/mine.JPEG"]
    assert any(line.startswith("ignored 5 images outside any class folder: val/") for line in listing.warnings)


@pytest.mark.parametrize(
    ("add_list", "name"),
    [
        (add_development_kit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"),
        (add_kaggle_lists, "LOC_val_solution.csv"),
        (add_kaggle_lists, "LOC_synset_mapping.txt"),
        (add_synset_labels, "imagenet_2012_validation_synset_labels.txt"),
    ],
)
def test_lists_must_be_utf8(tree, add_list, name):
    add_list(tree)
    text = (tree / name).read_text()
    (tree / name).write_text(text, "utf-8-sig")
    list_folder(tree)
    (tree / name).write_text(text + "é", "latin-1")
    with pytest.raises(ConfigError, match=rf"{name}: not UTF-8 text \(.*, byte [\d,]+\); save it as UTF-8$"):
        list_folder(tree)


def test_without_a_list(tree):
    with pytest.raises(ConfigError, match="need a list of their labels"):
        list_folder(tree)


def test_an_incomplete_list(tree):
    add_kaggle_lists(tree)
    (tree / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n")
    with pytest.raises(ConfigError, match=r"no label for ILSVRC2012_val_00000002\.JPEG \(4 images of 5\)"):
        list_folder(tree)


def test_a_damaged_synset_table(tree):
    add_development_kit(tree)
    (tree / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").write_bytes(b"words")
    with pytest.raises(ConfigError, match="not the table of synsets"):
        list_folder(tree)
