"""Names of splits: folders, parquet files, and the option `--split-folders`."""

import pytest

from resnetlab.config import ConfigError
from resnetlab.data.split_names import (
    has_split_word,
    is_unsure,
    parse_split_folders,
    shard_number,
    split_of,
    splits_of_files,
    suggest_option,
)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAINING training_set train_set trainset TrainSet train-set Train.Set train_images "
            "images_train train_data data_train train2017 01_train trainval train_val dataset-train training(2019)",
        ),
        (
            "val",
            "val Valid VALIDATION validate dev dev_set development eval evaluation holdout hold-out val2017 imgs_val",
        ),
        ("test", "test Testing TEST_SET testset test_images images-test test2017 02-test tst Testing.Data"),
        (
            None,
            "trains tester contest latest testimony devices evaluator training_notes train_labels train_masks test1 "
            "train_1 fold_1 data images set 2017 extra cat bus Prüfung",
        ),
    ],
)
def test_folder_names(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_names_with_spaces():
    assert split_of("Test Set") == split_of("  test images ") == "test"


def test_names_that_may_also_mean_the_test_split():
    assert [name for name in ("eval", "Holdout_set", "val", "dev", "test", "cat") if is_unsure(name)] == [
        "eval",
        "Holdout_set",
    ]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("Train.parquet Test.parquet", "train test"),
        ("training.parquet testing.parquet", "train test"),
        ("train-00000-of-00002.parquet test-00000-of-00001-0f9e8d7c6b5a4321.parquet", "train test"),
        ("validation_0.parquet train_0.parquet", "val train"),
        ("train-1.snappy.parquet VALID.PARQUET", "train val"),
        ("mnist-train.parquet mnist-test.parquet", "train test"),
        ("train2017.parquet val2017.parquet", "train val"),
        ("train-part1.parquet train-part2.parquet", "train train"),
        ("train-0.parquet training_notes.parquet", "train -"),
        ("mnist_train.parquet usps_test.parquet", "- -"),
        ("part-00000-f3a1b2c3-1111-2222-3333-444455556666-c000.snappy.parquet", "-"),
        ("0000.parquet 0001.parquet", "- -"),
        ("cifar10_train.parquet", "-"),
    ],
)
def test_file_names(names, splits):
    found = splits_of_files(names.split())
    assert [found[name] or "-" for name in names.split()] == splits.split()


def test_a_word_of_a_file_name_may_say_a_split():
    assert has_split_word("mnist_train.parquet")
    assert not has_split_word("part-00000-of-00002.parquet")
    assert shard_number("train-00001-of-00003-0f9e8d7c6b5a4321.parquet") == (1, 3)
    assert shard_number("train-2017.parquet") is None


def test_the_option():
    assert parse_split_folders(None) == {}
    assert parse_split_folders("test=Testing/, train=a/b") == {"train": "a/b", "test": "Testing"}
    assert parse_split_folders("Training=A,valid=B") == {"train": "A", "val": "B"}
    assert parse_split_folders("all=.") == {"all": "."}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has ''; write SPLIT=FOLDER"),
        ("train", "has 'train'; write SPLIT=FOLDER"),
        ("train=", "has 'train='; write"),
        ("learn=A", "has 'learn=A'; write SPLIT=FOLDER with a split train, val, test or all"),
        ("test=A", "must name either train or all"),
        ("all=A,train=B", "must name either train or all"),
        ("all=A,test=B", "names all beside other splits"),
        ("train=A,training=B", "names train twice, as A and B"),
        ("train=A,test=A/", "names one folder for two splits"),
        ("train=/A", "has 'train=/A'; name folders relative to the data"),
        ("train=../A", "has 'train=../A'; name folders relative to the data"),
    ],
)
def test_an_invalid_option(text, message):
    with pytest.raises(ConfigError, match=f"^--split-folders {message}") as error:
        parse_split_folders(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "option"),
    [
        ("train dev eval", "train=train,val=dev,test=eval"),
        ("Lernen Pruefen", "train=Lernen,test=Pruefen"),
        ("train val valid", "train=train,val=val"),
        ("test", "train=FOLDER,test=test"),
        ("train.parquet dev.parquet eval.parquet", "train=train.parquet,val=dev.parquet,test=eval.parquet"),
        ("mnist_train.parquet usps_test.parquet", "train=mnist_train.parquet,test=usps_test.parquet"),
    ],
)
def test_the_suggested_option_is_valid(names, option):
    assert suggest_option(names.split()) == f"--split-folders {option}"
    assert parse_split_folders(option)
