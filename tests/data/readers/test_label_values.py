"""Labels that are missing values or numbers instead of classes, alike in tables and parquet files."""

import pytest

from helpers.images import encode, random_images, write_parquet, write_tree
from resnetlab.config import ConfigError
from resnetlab.data.readers.label_table import list_label_table
from resnetlab.data.readers.label_values import MIN_SUSPICIOUS
from resnetlab.data.readers.parquet import list_parquet

IMAGES = [encode(image) for image in random_images(MIN_SUSPICIOUS)]


def read(kind, folder, labels):
    """List images with these labels, as a table or as a parquet file with text or numbers."""
    if kind == "table":
        write_tree(folder, {"images": len(labels)})
        rows = (f"images/{number:03}.png,{label}" for number, label in enumerate(labels))
        (folder / "t.csv").write_text("\n".join(["file,label", *rows]) + "\n")
        return list_label_table(folder / "t.csv")
    values = labels if kind == "text" else [float(label) for label in labels]
    return list_parquet(write_parquet(folder / "a.parquet", IMAGES[: len(labels)], values))


@pytest.mark.parametrize("kind", ["table", "text", "numbers"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "1", "-1"], r"the label is missing \(-1\)"),
        (["1", "2", "-1"], r"the label is missing \(-1\)"),
        (["0.143", "0.286", "1"], "label is 0.143, and a label is a whole number or text"),
    ],
)
def test_numbers_that_are_no_classes(tmp_path, kind, labels, message):
    with pytest.raises(ConfigError, match=message):
        read(kind, tmp_path, labels)


@pytest.mark.parametrize("kind", ["table", "text"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", "2", "1.0"], "the labels 1 and 1.0 are one number"),
        (["7", "007", "cat"], "the labels (7|007) and (7|007) are one number"),
        (["0.5", "nan", "0.25"], "label is 0.*, and a label is a whole number"),
        (["cat", " ", "dog"], "no label|label is missing"),
        (["cat", "-1", "dog"], r"the label is missing \(-1\)"),
    ],
)
def test_text_that_is_no_class(tmp_path, kind, labels, message):
    with pytest.raises(ConfigError, match=message):
        read(kind, tmp_path, labels)


@pytest.mark.parametrize("kind", ["table", "text"])
@pytest.mark.parametrize("word", ["nan", "NA", "NULL", "None", "n/a"])
def test_words_for_missing_values_are_classes_with_a_warning(tmp_path, kind, word):
    listing = read(kind, tmp_path, ["cat", word, "dog"])
    assert word in listing.classes
    warning = f"{word} is read as a class; if it stands for a missing label, remove such rows ("
    assert any(line.startswith(warning) for line in listing.warnings)


@pytest.mark.parametrize("kind", ["table", "text", "numbers"])
@pytest.mark.parametrize("labels", [["1", "-1", "1"], ["-2", "-1", "0", "1"], ["10", "9", "10"]])
def test_numbers_that_are_classes(tmp_path, kind, labels):
    listing = read(kind, tmp_path, labels)
    assert set(listing.classes) == set(labels)
    assert listing.warnings == ()


@pytest.mark.parametrize("labels", [["v1.5", "v1.6"], ["1.5", "1.6", "diesel"], ["01", "02"], ["1.0", "2.0"]])
def test_names_with_numbers_stay_as_they_are(tmp_path, labels):
    assert set(read("table", tmp_path, labels).classes) == set(labels)


def test_a_split_of_missing_labels_beside_a_label_of_plus_and_minus_one(tmp_path):
    write_parquet(tmp_path / "train.parquet", IMAGES[:2], [1, -1])
    write_parquet(tmp_path / "test.parquet", IMAGES[2:4], [-1, -1])
    with pytest.raises(ConfigError, match=r"test.parquet row 0: the label is missing \(-1\)"):
        list_parquet(tmp_path)


@pytest.mark.parametrize("kind", ["table", "text", "numbers"])
def test_a_class_for_each_image_is_reported(tmp_path, kind):
    labels = [str(number) for number in range(MIN_SUSPICIOUS)]
    assert any("has a class of its own; is label the label?" in line for line in read(kind, tmp_path, labels).warnings)


@pytest.mark.parametrize(
    ("names", "count"), [(("label", "target"), 1), (("label", "class"), 1), (("label", "Label"), 0)]
)
def test_labels_of_splits_from_columns_of_two_names(tmp_path, names, count):
    for split, name in zip(("train", "test"), names, strict=True):
        write_parquet(tmp_path / f"{split}.parquet", IMAGES[:2], [0, 1], label=name)
    found = [line for line in list_parquet(tmp_path).warnings if "different columns" in line]
    expected = f"the labels come from different columns: label of train.parquet, {names[1]} of test.parquet; give all "
    assert len(found) == count
    assert all(line.startswith(expected) and line.endswith("--label-column") for line in found)
