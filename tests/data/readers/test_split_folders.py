"""Folders that are splits, folders that are classes, and folders that could be both."""

import pytest

from helpers.images import write_tree
from resnetlab.config import ConfigError
from resnetlab.data.listing import describe_listing
from resnetlab.data.readers.folder import list_folder

PAIR = {"train/a": 2, "train/b": 2}


def counts(listing):
    return {split: len(images) for split, images in listing.splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("Training", None, "Testing"),
        ("training_set", None, "test_set"),
        ("train_images", None, "test_images"),
        ("images_train", "images_val", "images_test"),
        ("train2017", "val2017", "test2017"),
        ("trainset", None, "testset"),
        ("TRAIN", "VALID", "TEST"),
        ("train-data", "dev", "test-data"),
        ("01_train", "02_validation", "03_test"),
        ("Train Set", None, "Test Set"),
        ("trainval", None, "test"),
    ],
)
def test_splits_by_name(tmp_path, names):
    found = {split: name for split, name in zip(("train", "val", "test"), names, strict=True) if name}
    write_tree(tmp_path, {f"{name}/{cls}": 2 for name in found.values() for cls in "ab"})
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b")
    assert counts(listing) == dict.fromkeys(found, 4)
    assert listing.sources == {split: f"{name}/" for split, name in found.items()}
    assert listing.warnings == ()
    assert f"train from {names[0]}/ 4" in describe_listing(listing)[1]


@pytest.mark.parametrize("name", ["eval", "holdout", "Evaluation_Set"])
def test_a_name_that_may_mean_the_test_split_is_reported(tmp_path, name):
    listing = list_folder(write_tree(tmp_path, {**PAIR, f"{name}/a": 1, f"{name}/b": 1}))
    assert counts(listing) == {"train": 4, "val": 2}
    assert listing.warnings == (f"{name}/ is read as val; if it is the test split, say so with --split-folders",)
    chosen = list_folder(tmp_path, {"train": "train", "test": name})
    assert counts(chosen) == {"train": 4, "test": 2}
    assert chosen.warnings == ()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({**PAIR, "dev/a": 1, "eval/a": 1}, r"dev/ and eval/ are both val; .*train=train,val=dev,test=eval$"),
        ({**PAIR, "val/a": 1, "eval/a": 1, "test/a": 1}, "eval/ and val/ are both val; .*val=val,test=test"),
        ({**PAIR, "trainval/a": 1, "trainval/b": 1}, "train/ and trainval/ are both train"),
        (
            {f"{name}/{cls}": 1 for name in ("Lernen", "Pruefen") for cls in "ab"},
            r"Lernen/, Pruefen/ look like splits, .* all hold the folders a, b; .*train=Lernen,test=Pruefen, .*all=\.$",
        ),
        (
            {f"{cls}/{split}": 1 for cls in ("cat", "dog") for split in ("train", "test")},
            r"cat/, dog/ hold the splits test, train; splits inside class folders are not read: .*all=\.$",
        ),
        ({f"fold_{n}/{cls}": 1 for n in range(3) for cls in "ab"}, "fold_0/, fold_1/, fold_2/ look like splits"),
        ({f"train_{n}/{cls}": 1 for n in range(2) for cls in "ab"}, "train_0/, train_1/ look like splits"),
        ({"A/Cat": 1, "A/Dog": 1, "B/cat": 1, "B/dog": 1}, "A/, B/ look like splits"),
        ({**PAIR, "Pruefen/a": 1, "Pruefen/b": 1}, "Pruefen/ holds the same class folders as train/.*test=Pruefen$"),
        ({"Lernen/a": 1, "Lernen/b": 1, "test/a": 1}, "has test/ but no train/.*train=Lernen,test=test$"),
        ({"train": 2, "train/steam": 1, "bus": 2}, r"train/ may be a split or a class beside bus/.*all=\."),
        ({"data/train/a": 1, "data/train/b": 1, "data/test/a": 1}, "all images lie in data/, .*give .*/data$"),
        (
            {"x/y/cat": 1, "x/y/dog": 1, "src": 0},
            "all images lie in x/y/, which holds the folders cat, dog; give .*/x/y$",
        ),
        ({"images/train/a": 1, "images/val/a": 1, "labels/train": 0, "labels/val": 0}, "all images lie in images/"),
        (
            {"train/images/a": 1, "train/images/b": 1, "test/images/a": 1},
            "all images of train lie in train/images/.*give --split-folders train=train/images,test=test/images$",
        ),
        (
            {"train/Cat": 1, "train/Dog": 1, "test/cat": 1},
            r"test has images of class cat, but train has none \(train calls it Cat: give cat that name\)",
        ),
        (
            {"Training/a_b": 1, "Training/c": 1, "Testing/a-b": 1},
            r"test \(Testing/\) has images of class a-b, but train \(Training/\) has none \(train calls it a_b",
        ),
        ({"train": 2, "test": 2}, r"holds 2 images directly.*if the folders of .* are classes, give .*all=\."),
        (
            {"train": 2, "test1": 2},
            r"test1/, train/ may be splits or classes: .* if they are classes, else sort the im",
        ),
        ({"train1": 2, "test1": 2}, "test1/, train1/ may be splits or classes"),
        ({"train": 2, "train_labels": 0, "val_new": 2}, "train/, val_new/ may be splits or classes"),
        ({"train": 2, "test": 2, "sample_images": 2}, "test/, train/ may be splits or classes"),
        ({"train": 2, "test": 2, "docs": 0}, "test/, train/ may be splits or classes"),
        ({"train_images": 2, "test_images": 2, "extra": 2}, "test_images/, train_images/ may be splits or classes"),
        ({"train": 2, "training": 2, "extra": 2}, "train/, training/ may be splits or classes"),
        ({**PAIR, "test": 2}, "test: holds 2 images directly.*to read train alone, give --split-folders train=train$"),
    ],
)
def test_what_could_be_two_things_is_refused(tmp_path, layout, message):
    with pytest.raises(ConfigError, match=message) as error:
        list_folder(write_tree(tmp_path, layout))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        ({"train_station": 2, "train_wagon": 2, "tram": 2}, ("train_station", "train_wagon", "tram")),
        ({"devices": 2, "trainer": 2, "testimony": 2}, ("devices", "testimony", "trainer")),
        ({"cat/images": 2, "dog/images": 2}, ("cat", "dog")),
        ({"g1/s1": 1, "g1/s2": 1, "g2/s3": 1, "g2/s4": 1}, ("g1", "g2")),
        ({"cat/in": 1, "cat/out": 1, "dog": 1}, ("cat", "dog")),
    ],
)
def test_classes_stay_classes(tmp_path, layout, classes):
    listing = list_folder(write_tree(tmp_path, layout))
    assert (listing.classes, list(listing.splits), listing.warnings) == (classes, ["all"], ())


@pytest.mark.parametrize(
    ("names", "split"), [("bus car train", "train"), ("control test", "test"), ("invalid valid", "valid")]
)
def test_a_class_named_as_a_split_is_reported(tmp_path, names, split):
    listing = list_folder(write_tree(tmp_path, dict.fromkeys(names.split(), 2)))
    assert (listing.classes, list(listing.splits)) == (tuple(names.split()), ["all"])
    assert listing.warnings == (f"{split}/ is read as a class; if it is a split, sort its images into class folders",)
    assert list_folder(tmp_path, {"all": "."}).warnings == ()


def test_folders_without_images_do_not_hide_unknown_splits(tmp_path):
    layout = {f"{name}/{cls}": 1 for name in ("Lernen", "Pruefen") for cls in "ab"}
    with pytest.raises(ConfigError, match="Lernen/, Pruefen/ look like splits"):
        list_folder(write_tree(tmp_path, {**layout, "docs": 0}))


def test_given_folders(tmp_path):
    write_tree(tmp_path, {f"{name}/{cls}": 1 for name in ("Lernen", "x/Pruefen") for cls in "ab"} | {"rest/c": 1})
    listing = list_folder(tmp_path, {"train": "Lernen", "test": "x/Pruefen"})
    assert counts(listing) == {"train": 2, "test": 2}
    assert listing.sources == {"train": "Lernen/", "test": "x/Pruefen/"}
    assert listing.splits["test"].names[0] == "x/Pruefen/a/000.png"
    assert listing.warnings == ("ignored 1 folder that is not read: rest/",)


def test_given_classes(tmp_path):
    write_tree(tmp_path, {f"{name}/{cls}": 1 for name in ("train", "test") for cls in "ab"})
    listing = list_folder(tmp_path, {"all": "."})
    assert (listing.classes, counts(listing), listing.sources) == (("test", "train"), {"all": 4}, {})
    inner = list_folder(tmp_path, {"all": "train"})
    assert (inner.classes, counts(inner), inner.sources) == (("a", "b"), {"all": 2}, {"all": "train/"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": "train", "test": "Test"}, "--split-folders test=Test names no folder there; folders: test, train"),
        ({"train": "train", "test": "train/a"}, "names a and a folder around it"),
        ({"train": "train", "test": "./train"}, "train of train and train of test are one folder; give each split its"),
        ({"train": "train", "test": "x/link"}, "train of train and x/link of test are one folder"),
        ({"train": "train", "test": "x/inner"}, "names inner and a folder around it"),
    ],
)
def test_given_folders_must_exist_and_be_separate(tmp_path, given, message):
    write_tree(tmp_path, {f"{name}/{cls}": 1 for name in ("train", "test") for cls in "ab"})
    (tmp_path / "x").mkdir()
    (tmp_path / "x/link").symlink_to("../train")
    (tmp_path / "x/inner").symlink_to("../train/a")
    message = message.replace("test, train", "test, train, x")
    with pytest.raises(ConfigError, match=message):
        list_folder(tmp_path, given)


def test_two_names_of_one_folder_are_not_two_splits(tmp_path):
    write_tree(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(ConfigError, match="train of train and test of test are one folder"):
        list_folder(tmp_path)


def test_classes_that_differ_in_case_are_reported(tmp_path):
    write_tree(tmp_path, {"Cat": 1, "cat": 1, "dog": 1})
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not know case")
    assert list_folder(tmp_path).warnings == ("classes Cat and cat differ only in case or separators",)
