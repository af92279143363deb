import sys

import pytest

from helpers.images import encode, parquet, pictures
from resnetlab.config import ConfigError
from resnetlab.data.readers.parquet import list_parquet

SOME = [encode(picture) for picture in pictures(6)]


def test_the_layout_of_hugging_face(tmp_path):
    parquet(tmp_path / "train-00000-of-00002.parquet", SOME[:2], [2, 0], ("x", "y", "z"), image="img")
    parquet(tmp_path / "train-00001-of-00002.parquet", SOME[2:4], [1, 1], ("x", "y", "z"), image="img")
    parquet(tmp_path / "validation-00000-of-00001.parquet", SOME[4:5], [0], ("x", "y", "z"), image="img")
    parquet(tmp_path / "test.parquet", SOME[5:], [1], ("x", "y", "z"), image="img")
    (tmp_path / "README.md").write_text("")
    found = list_parquet(tmp_path)
    assert found.classes == ("x", "y", "z")
    assert {split: listing.labels for split, listing in found.splits.items()} == {
        "train": (2, 0, 1, 1),
        "val": (0,),
        "test": (1,),
    }
    assert found.splits["train"].places == tuple(SOME[:4])
    assert found.splits["train"].names[1:3] == (
        "train-00000-of-00002.parquet row 1",
        "train-00001-of-00002.parquet row 0",
    )
    assert found.warnings == ("val has no image of 2 classes (y, z)", "test has no image of 2 classes (x, z)")


@pytest.mark.parametrize(
    ("labels", "classes"), [([10, 9, 10, 2], ("2", "9", "10")), (["dog", "cat", "dog", "eel"], ("cat", "dog", "eel"))]
)
def test_without_metadata_columns_are_found_by_type(tmp_path, labels, classes):
    found = list_parquet(parquet(tmp_path / "one.parquet", SOME[:4], labels, image="photo", label="target"))
    assert found.classes == classes
    assert [found.classes[label] for label in found.splits["all"].labels] == [str(label) for label in labels]


def test_images_may_be_plain_bytes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1, 0], "jpeg": SOME[:2]}), tmp_path / "a.parquet")
    found = list_parquet(tmp_path)
    assert found.splits["all"].places == tuple(SOME[:2])
    assert found.splits["all"].labels == (1, 0)


def test_the_fine_label_of_cifar100_is_taken(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": data} for data in SOME[:2]]
    pq.write_table(pa.table({"img": cells, "coarse_label": [5, 5], "fine_label": [0, 1]}), tmp_path / "a.parquet")
    assert list_parquet(tmp_path).splits["all"].labels == (0, 1)


def test_files_named_after_no_split_are_told(tmp_path):
    parquet(tmp_path / "train-0.parquet", SOME[:2], [0, 1])
    parquet(tmp_path / "training_notes.parquet", SOME[:2], [0, 1])
    found = list_parquet(tmp_path)
    assert len(found.splits["train"]) == 2
    assert found.warnings == ("ignored, since named after no split: training_notes.parquet",)


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        ([{"bytes": None, "path": "a.png"}, SOME[0]], [0, 1], None, r"row 0: the image is only a path \(a.png\)"),
        ([SOME[0], {"bytes": None, "path": None}], [0, 1], None, "row 1: there is no image; remove the row"),
        (SOME[:2], [0, 2], ("x", "y"), "row 1: label 2 is out of range; there are 2 classes from 0"),
        (SOME[:2], [0, -7], ("x", "y"), "row 1: label -7 is out of range"),
        (SOME[:2], [-1, 0], None, r"row 0: the label is missing \(-1\)"),
        (SOME[:2], [0, None], ("x", "y"), r"row 1: the label is missing \(None\)"),
        (SOME[:2], [0, 0], None, "there is only one class, 0"),
        (["text", "text"], [0, 1], None, r"no column holds images as bytes; columns: image \(string\), label"),
        (SOME[:2], [0.5, 1.5], None, r"no column is called label, nor is a single one of whole numbers; columns: "),
    ],
)
def test_rows_that_cannot_work(tmp_path, images, labels, classes, message):
    file = parquet(tmp_path / "train-0.parquet", images, labels, classes)
    with pytest.raises(ConfigError, match=message) as error:
        list_parquet(file)
    assert "train-0.parquet" in str(error.value) or "only one class" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_work(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ConfigError, match=r"a.parquet: not a parquet file"):
        list_parquet(tmp_path)
    whole = parquet(tmp_path / "b" / "train-0.parquet", SOME[:2], [0, 1])
    content = bytearray(whole.read_bytes())
    content[8 : len(content) // 4] = bytes(len(content) // 4 - 8)
    whole.write_bytes(content)
    with pytest.raises(ConfigError, match=r"train-0.parquet: damaged"):
        list_parquet(tmp_path / "b")
    parquet(tmp_path / "c" / "test-0.parquet", SOME[:2], [0, 1])
    with pytest.raises(ConfigError, match=r"there is test-0.parquet but no train-\*.parquet"):
        list_parquet(tmp_path / "c")
    parquet(tmp_path / "d" / "train-00001-of-00003.parquet", SOME[:2], [0, 1])
    with pytest.raises(ConfigError, match="is one of 3 files, of which 2 are missing, the first with number 00000"):
        list_parquet(tmp_path / "d")
    parquet(tmp_path / "e" / "train-0.parquet", SOME[:2], [0, 1], ("a", "b"))
    parquet(tmp_path / "e" / "test-0.parquet", SOME[:2], [0, 1], ("b", "a"))
    with pytest.raises(ConfigError, match=r"test-0.parquet: its class names are not those of train-0.parquet"):
        list_parquet(tmp_path / "e")
    parquet(tmp_path / "f" / "train-0.parquet", SOME[:2], [0, 1])
    parquet(tmp_path / "f" / "test-0.parquet", SOME[:1], [2])
    with pytest.raises(ConfigError, match="test has images of class 2, but train has none"):
        list_parquet(tmp_path / "f")


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    file = parquet(tmp_path / "a.parquet", SOME[:2], [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"^reading parquet needs pyarrow: pip install 'resnetlab\[data\]'$"):
        list_parquet(file)
