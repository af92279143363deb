"""Containers and layouts that are not read: the error says what they are and what to do."""

import pytest

from helpers.images import write_tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.registry import detect_kind


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            "dataset_dict.json train/data-00000-of-00001.arrow train/state.json",
            r"saved with save_to_disk \(Arrow files\), .*load_from_disk\(\".*set\"\); \[s.to_parquet",
        ),
        ("state.json dataset_info.json data-00000-of-00001.arrow", r"save_to_disk .*d.to_parquet\(\"train.parquet\"\)"),
        (
            "train-000000.tar train-000001.tar",
            r"holds 2 .tar files \(train-000000.tar\): without the index of resnetlab",
        ),
        ("data/000000.tar README.md", "holds 1 .tar file .*unpack them into class folders"),
        ("photos.zip", "it holds photos.zip: unpack the archive, and give the unpacked folder"),
        ("photos.tar.gz README.md", "it holds photos.tar.gz: unpack the archive"),
        ("a.tfrecord-00000-of-00001", "holds 1 .tfrecord file .*save the images as files in class folders"),
        ("images.h5", "holds 1 .h5 file"),
        ("x.npz y.npz", "holds 2 .npz files"),
    ],
)
def test_containers(tmp_path, files, message):
    for name in files.split():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=message) as error:
        list_dataset(DataConfig(str(tmp_path / "set")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layout", "table"),
    [({"train": 2, "test": 2}, "labels.csv"), ({".": 3}, "labels.csv"), ({"train": 2}, "train/metadata.jsonl")],
)
def test_labels_in_a_table(tmp_path, layout, table):
    write_tree(tmp_path, layout)
    (tmp_path / table).write_text("id,label")
    name = table.rpartition("/")[2]
    with pytest.raises(ConfigError, match=f"directly, .*{name} is not read as labels: give a .csv"):
        list_dataset(DataConfig(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.arrow", "unpack the file: save it as parquet"),
        ("a.zip", "unpack the file$"),
    ],
)
def test_single_files(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=remedy):
        detect_kind(DataConfig(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"split_folders": "train=x"},
            "--split-folders is for folders of images and parquet files, and digits is a known",
        ),
        ({"image_column": "x"}, "--image-column is for parquet files, and digits is a known data set; leave it out"),
        ({"label_column": "x"}, "--label-column is for parquet files, and digits"),
    ],
)
def test_options_that_do_not_fit_the_kind(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        detect_kind(DataConfig("digits", **options))


def test_column_options_do_not_fit_a_folder(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(ConfigError, match=r"--label-column is for parquet files, and .* is a folder of images"):
        detect_kind(DataConfig(str(tmp_path), label_column="x"))
    with pytest.raises(ConfigError, match="--split-folders has 'x'"):
        detect_kind(DataConfig(str(tmp_path), split_folders="x"))
