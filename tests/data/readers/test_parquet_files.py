"""Splits from the names of parquet files and of their folders, and files that are missing."""

import pytest

from helpers.images import encode, random_images, write_parquet, write_tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.readers.parquet import list_parquet
from resnetlab.data.registry import detect_kind

IMAGES = [encode(image) for image in random_images(4)]
HASH = ("0f9e8d7c6b5a4321", "1a2b3c4d5e6f7081", "2b3c4d5e6f708192")


def write(root, names):
    for name in names.split():
        write_parquet(root / name, IMAGES, [0, 1, 0, 1], ("a", "b"))
    return root


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        ("Train.parquet Test.parquet", {"train": "Train.parquet", "test": "Test.parquet"}),
        ("training.parquet testing.parquet", {"train": "training.parquet", "test": "testing.parquet"}),
        ("train_0.parquet validation_0.parquet", {"train": "train_0.parquet", "val": "validation_0.parquet"}),
        ("mnist-train.parquet mnist-test.parquet", {"train": "mnist-train.parquet", "test": "mnist-test.parquet"}),
        (
            f"train-00000-of-00002-{HASH[0]}.parquet train-00001-of-00002-{HASH[1]}.parquet",
            {"train": f"train-00000-of-00002-{HASH[0]}.parquet and 1 more"},
        ),
        ("train-1-of-2.parquet train-2-of-2.parquet", {"train": "train-1-of-2.parquet and 1 more"}),
        ("data/train-00000-of-00001.parquet", {"train": "data/train-00000-of-00001.parquet"}),
        ("train/0000.parquet test/0000.parquet", {"train": "train/", "test": "test/"}),
        (
            "plain/Training/0000.parquet plain/valid/0000.parquet",
            {"train": "plain/Training/", "val": "plain/valid/"},
        ),
        (
            "train.parquet/part-0.parquet test.parquet/part-0.parquet",
            {"train": "train.parquet/", "test": "test.parquet/"},
        ),
        ("part-00000-of-00002.parquet part-00001-of-00002.parquet", {"all": "part-00000-of-00002.parquet and 1 more"}),
        ("0000.parquet 0001.parquet", {"all": "0000.parquet and 1 more"}),
        ("cifar10_train.parquet", {"all": "cifar10_train.parquet"}),
    ],
)
def test_splits_by_name(tmp_path, names, sources):
    (tmp_path / ".git").mkdir()
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / "logo.png").write_bytes(IMAGES[0])
    write(tmp_path, names)
    assert detect_kind(DataConfig(str(tmp_path))) == "parquet"
    listing = list_parquet(tmp_path)
    assert listing.sources == sources
    assert sum(map(len, listing.splits.values())) == 4 * len(names.split())
    assert listing.warnings == ()


def test_rows_of_files_with_one_name_have_different_names(tmp_path):
    listing = list_parquet(write(tmp_path, "train/0000.parquet test/0000.parquet"))
    assert listing.splits["train"].names[0] == "train/0000.parquet row 0"
    assert listing.splits["test"].names[0] == "test/0000.parquet row 0"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            f"train-00000-of-00003-{HASH[0]}.parquet train-00002-of-00003-{HASH[1]}.parquet",
            "is one of 3 files, of which 1 is missing, the first with number 00001; add them",
        ),
        ("part-00001-of-00002.parquet", "is one of 2 files, of which 1 is missing, the first with number 00000"),
        ("data/train-00000-of-00002.parquet", "data: train-00000-of-00002.parquet is one of 2 files"),
        (
            f"train-00000-of-00001-{HASH[0]}.parquet train-00000-of-00001-{HASH[1]}.parquet",
            "are the same part; remove one of them",
        ),
        (
            "train-00000-of-00001.parquet train-00000-of-00002.parquet train-00001-of-00002.parquet",
            "belong to two sets of files; remove one set",
        ),
        ("train.parquet training.parquet", "train.parquet and training.parquet are both train"),
        ("train.parquet dev.parquet eval.parquet", "are both val; .*val=dev.parquet,test=eval.parquet$"),
        ("mnist_train.parquet usps_test.parquet", "may say a split or not; .*train=mnist_train.parquet,test=usps_test"),
        ("train.parquet mnist_test.parquet", "the name mnist_test.parquet may say a split or not"),
        ("test.parquet", r"has test.parquet but no train-\*.parquet"),
        ("one/train-0.parquet two/train-0.parquet", r"parquet files in 2 folders \(one/, two/\); give one of them"),
        (
            "one/train/0.parquet two/train/0.parquet",
            r"of 2 data sets \(one/, two/\); give one of them, such as .*/one$",
        ),
        ("train/0.parquet training/0.parquet", "train/ and training/ are both train; say which is which with"),
        ("test/0.parquet", "has test/ but no train/; add it"),
        ("Lernen/0.parquet Pruefen/0.parquet", "--split-folders train=Lernen,test=Pruefen$"),
    ],
)
def test_what_could_be_two_things_is_refused(tmp_path, names, message):
    with pytest.raises(ConfigError, match=message) as error:
        list_parquet(write(tmp_path, names))
    assert "\n" not in str(error.value)


def test_names_that_do_not_say_a_split_are_reported(tmp_path):
    beside = list_parquet(write(tmp_path / "one", "train.parquet Pruefen.parquet"))
    assert beside.warnings == ("ignored 1 file not named after a split: Pruefen.parquet; read with --split-folders",)
    pool = list_parquet(write(tmp_path / "two", "cats.parquet dogs.parquet"))
    assert len(pool.splits["all"]) == 8
    assert pool.warnings == (
        "files with different names are read as one set without splits: cats.parquet, dogs.parquet (--split-folders)",
    )
    unsure = list_parquet(write(tmp_path / "three", "train.parquet eval.parquet"))
    assert unsure.warnings == ("eval.parquet is read as val; if it is the test split, say so with --split-folders",)


def test_class_folders_beside_parquet_files_are_reported(tmp_path):
    write_tree(tmp_path, {"cat": 1})
    listing = list_parquet(write(tmp_path, "train.parquet"))
    assert listing.warnings == ("ignored 1 folder that is not read: cat/",)


def test_metadata_of_image_folders_are_no_parquet_data(tmp_path):
    write_tree(tmp_path, {"train/a": 1, "train/b": 1})
    write(tmp_path, "annotations/boxes.parquet")
    assert detect_kind(DataConfig(str(tmp_path))) == "folder"


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ({"train": "Lernen.parquet", "test": "x"}, {"train": "Lernen.parquet", "test": "x/Pruefen.parquet"}),
        ({"train": "L*", "test": "x/P*"}, {"train": "Lernen.parquet", "test": "x/Pruefen.parquet"}),
        ({"train": "Lernen"}, {"train": "Lernen.parquet"}),
        ({"all": "*"}, {"all": "Lernen.parquet and 1 more"}),
        ({"all": "."}, {"all": "Lernen.parquet"}),
    ],
)
def test_given_files(tmp_path, given, sources):
    listing = list_parquet(write(tmp_path, "Lernen.parquet x/Pruefen.parquet"), given)
    assert listing.sources == sources
    assert sum(group.count for group in listing.left_out) == 2 - sum(map(len, listing.splits.values())) // 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": "foo"},
            r"train=foo matches no parquet file; name a folder, a file or a pattern such as train-\*; "
            "files: Lernen.parquet, x/Pruefen.parquet",
        ),
        ({"train": "*", "test": "x"}, "gives x/Pruefen.parquet to train and to test"),
    ],
)
def test_given_files_must_exist_and_be_separate(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        list_parquet(write(tmp_path, "Lernen.parquet x/Pruefen.parquet"), given)


def test_one_part_of_a_series_is_reported(tmp_path):
    write(tmp_path, "train-00000-of-00002.parquet")
    listing = list_parquet(tmp_path / "train-00000-of-00002.parquet")
    assert listing.warnings == ("train-00000-of-00002.parquet is one of 2 files; give its folder to read all",)


def test_splits_of_one_file_cannot_be_given(tmp_path):
    write(tmp_path, "a.parquet")
    with pytest.raises(ConfigError, match="is one file, so --split-folders cannot name its splits"):
        list_parquet(tmp_path / "a.parquet", {"train": "a.parquet"})


def test_a_pointer_of_git_lfs(tmp_path):
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(
        ConfigError, match=r"train.parquet: only a pointer of Git LFS; fetch the file with: git lfs pull"
    ):
        list_parquet(tmp_path)


@pytest.mark.parametrize("given", [{}, {"train": "train.parquet", "test": "test.parquet"}])
def test_two_names_of_one_file_are_not_two_splits(tmp_path, given):
    write(tmp_path, "train.parquet")
    (tmp_path / "test.parquet").symlink_to("train.parquet")
    with pytest.raises(ConfigError, match=r"train.parquet of train and test.parquet of test are one file"):
        list_parquet(tmp_path, given)
