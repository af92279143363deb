"""The layout of ILSVRC-2012, in the ways it comes unpacked."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from resnetlab.config import ConfigError
from resnetlab.data.readers.folder import list_folder

WNIDS = ("n01440764", "n02012849", "n03126707")
WORDS = ("tench, Tinca tinca", "crane", "crane")
TRUTH = (2, 0, 1, 1, 2)
"""Of five validation images: the position of its class."""


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "JPEG")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "imagenet"
    for wnid in WNIDS:
        picture(root / "train" / wnid / f"{wnid}_1.JPEG")
    for number in range(1, 6):
        picture(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    return root


def by_development_kit(root):
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {0: 2, 1: 3, 2: 1}  # the kit's own order is another
    rows = np.array([(numbers[at], WNIDS[at], WORDS[at]) for at in (2, 0, 1)], dtype=object)
    table = np.array([tuple(row) for row in rows], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    savemat(data / "meta.mat", {"synsets": table})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(numbers[at]) for at in TRUTH) + "\n")


def by_kaggle(root):
    rows = [f"ILSVRC2012_val_{number:08},{WNIDS[at]} 1 2 3 4" for number, at in enumerate(TRUTH, start=1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("\n".join(f"{w} {words}" for w, words in zip(WNIDS, WORDS)))  # noqa: B905


def by_lines(root):
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS[at] for at in TRUTH))


@pytest.mark.parametrize("made", [by_development_kit, by_kaggle, by_lines])
def test_flat_validation(tree, made):
    made(tree)
    contents = list_folder(tree)
    val = contents.splits["val"]
    assert {name[-13:-5]: label for name, label in zip(val.names, val.labels, strict=True)} == {
        f"{number:08}": at for number, at in enumerate(TRUTH, start=1)
    }
    assert contents.classes == (WNIDS if made is by_lines else ("tench", "crane (n02012849)", "crane (n03126707)"))
    assert list(contents.splits["train"].labels) == [0, 1, 2]


@pytest.mark.parametrize("first", [True, False])
def test_what_else_lies_there_is_told_in_whatever_order_it_is_listed(tree, monkeypatch, first):
    """`b` and `labels.txt` are no images; the disk may list them before the images or after."""
    by_lines(tree)
    for name in ("b", "labels.txt"):
        (tree / "val" / name).touch()
    (tree / "val" / "empty").mkdir()
    for name in ("mine.JPEG", "ILSVRC2012_val_1.JPEG"):
        picture(tree / "val" / name)
    listed = sorted(path.name for path in (tree / "val").iterdir())
    order = [tree / "val" / name for name in sorted(listed, key=lambda name: name.startswith("ILSVRC") == first)]
    iterdir = type(tree).iterdir
    monkeypatch.setattr(type(tree), "iterdir", lambda path: iter(order) if path.name == "val" else iterdir(path))
    contents = list_folder(tree)
    assert len(contents.splits["val"]) == 5
    assert contents.warnings == (
        "ignored, since they are not images: 2 .txt, 1 empty/",
        f"ignored, since they lie in no class folder: 2 images directly in {tree / 'val'}",
    )


def test_folders_of_classes_beside_flat_images_are_classes(tree):
    picture(tree / "val" / WNIDS[1] / "mine.JPEG")
    contents = list_folder(tree)
    assert contents.splits["val"].names == [f"val/{WNIDS[1]}/mine.JPEG"]
    assert f"ignored, since they lie in no class folder: 5 images directly in {tree / 'val'}" in contents.warnings


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (by_development_kit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"),
        (by_kaggle, "LOC_val_solution.csv"),
        (by_kaggle, "LOC_synset_mapping.txt"),
        (by_lines, "imagenet_2012_validation_synset_labels.txt"),
    ],
)
def test_a_list_that_is_no_text_is_named(tree, made, name):
    made(tree)
    text = (tree / name).read_text()
    (tree / name).write_text(text, "utf-8-sig")
    list_folder(tree)
    (tree / name).write_text(text + "é", "latin-1")
    with pytest.raises(ConfigError, match=rf"{name}: not text in UTF-8 \(.*, byte [\d,]+\); save it as such$"):
        list_folder(tree)


def test_without_a_list(tree):
    with pytest.raises(ConfigError, match="need a list of their labels"):
        list_folder(tree)


def test_a_list_that_does_not_fit(tree):
    by_kaggle(tree)
    (tree / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n")
    with pytest.raises(ConfigError, match=r"no label for ILSVRC2012_val_00000002\.JPEG \(4 images of 5\)"):
        list_folder(tree)


def test_a_damaged_table(tree):
    by_development_kit(tree)
    (tree / "ILSVRC2012_devkit_t12" / "data" / "meta.mat").write_bytes(b"words")
    with pytest.raises(ConfigError, match="not the table of synsets"):
        list_folder(tree)
