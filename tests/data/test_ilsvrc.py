"""The layout of ILSVRC-2012, in the ways it comes unpacked."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from resnetlab.config import ConfigError
from resnetlab.data.folder import list_folder

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
