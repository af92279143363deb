"""Listings of folder trees: layouts, names, ignored files and errors."""

import os
import unicodedata

import pytest

from helpers.images import write_tree
from resnetlab.config import ConfigError
from resnetlab.data.readers.folder import list_folder


def count_by_class(listing):
    return {
        name: {cls: split.labels.count(label) for label, cls in enumerate(listing.classes)}
        for name, split in listing.splits.items()
    }


def test_splits_of_classes(tmp_path):
    listing = list_folder(
        write_tree(tmp_path, {"train/b": 3, "train/a": 2, "Validation/a": 1, "Validation/b": 1, "test/b": 1})
    )
    assert listing.classes == ("a", "b")
    assert count_by_class(listing) == {"train": {"a": 2, "b": 3}, "val": {"a": 1, "b": 1}, "test": {"a": 0, "b": 1}}
    assert listing.splits["train"].names[0] == "train/a/000.png"
    assert listing.splits["train"].storage[0] == tmp_path / "train/a/000.png"
    assert listing.warnings == ("test has no image of class a",)


def test_one_level_of_classes(tmp_path):
    listing = list_folder(write_tree(tmp_path, {"cat": 2, "dog/puppies/young": 1, "dog": 1}))
    assert count_by_class(listing) == {"all": {"cat": 2, "dog": 2}}
    assert listing.splits["all"].names[2:] == ("dog/000.png", "dog/puppies/young/000.png")
    assert listing.warnings == ()


def test_a_class_may_be_called_train(tmp_path):
    assert list_folder(write_tree(tmp_path, {"bus": 1, "train": 2})).classes == ("bus", "train")


def test_system_files_are_ignored_without_a_warning(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1, "__MACOSX/a": 1, ".cache": 1, "a/.thumbs": 1})
    for name in (".DS_Store", "a/Thumbs.db", "b/desktop.ini", "b/._000.png"):
        (tmp_path / name).write_bytes(b"x")
    listing = list_folder(tmp_path)
    assert count_by_class(listing) == {"all": {"a": 1, "b": 1}}
    assert listing.warnings == ()


def test_other_files_are_counted(tmp_path):
    write_tree(tmp_path, {"train/a": 2, "train/b": 1, "labels": 1})
    (tmp_path / "train/a/000.png").rename(tmp_path / "train/a/SHOUTED.JPEG")
    (tmp_path / "train/a/001.png").rename(tmp_path / "train/a/without")
    for name in ("train/a/1.txt", "train/b/2.TXT", "train/b/3.csv"):
        (tmp_path / name).write_text("")
    listing = list_folder(tmp_path)
    assert count_by_class(listing) == {"train": {"a": 2, "b": 1}}
    assert listing.warnings == (
        "ignored files that are not images: 1 .csv, 2 .txt",
        "ignored 1 folder that is not read: labels/",
    )


def test_misplaced_images_are_counted(tmp_path):
    write_tree(tmp_path, {"train/a": 1, "train/b": 1, "train": 2})
    assert list_folder(tmp_path).warnings == (
        "ignored 2 images outside any class folder: train/000.png, train/001.png",
    )


def test_links_are_followed_except_loops(tmp_path):
    write_tree(tmp_path / "elsewhere", {"cats": 2})
    data = write_tree(tmp_path / "data", {"dog": 1})
    (data / "cat").symlink_to(tmp_path / "elsewhere/cats")
    (data / "dog/again").symlink_to(data / "dog")
    (data / "dog/all").symlink_to(data)
    (data / "dog/gone.png").symlink_to(tmp_path / "nowhere")
    listing = list_folder(data)
    names = listing.splits["all"].names
    assert listing.splits["all"].labels.count(0) == 2
    assert {"dog/000.png", "dog/gone.png", "dog/all/cat/000.png"} <= set(names)  # broken links are reported later
    assert not any(name.count("again") > 1 or name.count("all") > 1 for name in names)


def test_names_in_any_script(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Köter")
    listing = list_folder(write_tree(tmp_path, {decomposed: 1, "кот": 1, "猫": 1, "two words": 1}))
    assert listing.classes == ("Köter", "two words", "кот", "猫")
    assert "Köter/000.png" in listing.splits["all"].names


def test_names_that_are_not_utf8_can_be_printed(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    try:
        (tmp_path / "a/000.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.png"))
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    assert list_folder(tmp_path).splits["all"].names[0].encode() == "a/�.png".encode()


def test_two_folders_with_the_same_name(tmp_path):
    write_tree(tmp_path, {unicodedata.normalize(form, "é"): 1 for form in ("NFC", "NFD")})
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system normalises names")
    with pytest.raises(ConfigError, match=r"two folders are both called é .*merge them"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1}, "val has images of class c, but train has none"),
        ({"train/a": 1, "train/b": 1, "test/c": 1, "test/d": 1}, r"test has images of 2 classes \(c, d\)"),
        ({"train/a": 1, "train/b": 0}, "train/b: this class has no image; add some, or remove the folder"),
        ({"a": 1, "b": 0}, "/b: this class has no image"),
        ({}, "has no image; expected class folders, such as PATH/train/cat/1.jpg"),
        ({"train": 0, "val/a": 1}, "train: has no image; expected class folders"),
        ({".": 3}, "holds 3 images directly, without class folders; expected class folders"),
        ({"train": 2}, "train: holds 2 images directly"),
        ({"train/a": 1, "train/b": 1, "test": 4}, "test: holds 4 images directly"),
        ({"train/a": 1, "train/b": 1, "val/a": 0}, "val: has no image; add some, or remove the folder"),
        ({"val/a": 1, "val/b": 1}, "has val/ but no train/; add it, or give a folder of classes"),
        ({"test/a": 1, "test/b": 1}, "has test/ but no train/"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1}, "val/ and valid/ are both val; remove one of them"),
    ],
)
def test_invalid_layouts(tmp_path, layout, message):
    with pytest.raises(ConfigError, match=message) as error:
        list_folder(write_tree(tmp_path, layout))
    assert "\n" not in str(error.value)


def test_an_unreadable_folder(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "b").chmod(0)
    try:
        if os.access(tmp_path / "b", os.R_OK):
            pytest.skip("root may read everything")
        with pytest.raises(ConfigError, match=r"b: cannot be read \(Permission denied\)"):
            list_folder(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o755)
