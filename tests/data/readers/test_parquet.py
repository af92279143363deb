"""Listings of parquet files: layouts, columns, labels and errors."""

import random
import sys
import unicodedata

import pytest

from helpers.images import encode, random_images, write_parquet
from resnetlab.config import ConfigError
from resnetlab.data.readers.parquet import list_parquet

IMAGES = [encode(image) for image in random_images(6)]


def test_hugging_face_layout(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", IMAGES[:2], [2, 0], ("x", "y", "z"), image="img")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", IMAGES[2:4], [1, 1], ("x", "y", "z"), image="img")
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", IMAGES[4:5], [0], ("x", "y", "z"), image="img")
    write_parquet(tmp_path / "test.parquet", IMAGES[5:], [1], ("x", "y", "z"), image="img")
    (tmp_path / "README.md").write_text("")
    listing = list_parquet(tmp_path)
    assert listing.classes == ("x", "y", "z")
    assert {split: listing.labels for split, listing in listing.splits.items()} == {
        "train": (2, 0, 1, 1),
        "val": (0,),
        "test": (1,),
    }
    assert listing.splits["train"].storage == tuple(IMAGES[:4])
    assert listing.splits["train"].names[1:3] == (
        "train-00000-of-00002.parquet row 1",
        "train-00001-of-00002.parquet row 0",
    )
    assert listing.warnings == ("val has no image of 2 classes (y, z)", "test has no image of 2 classes (x, z)")


@pytest.mark.parametrize(
    ("labels", "classes"), [([10, 9, 10, 2], ("2", "9", "10")), (["dog", "cat", "dog", "eel"], ("cat", "dog", "eel"))]
)
def test_columns_are_listing_by_type_without_metadata(tmp_path, labels, classes):
    listing = list_parquet(write_parquet(tmp_path / "one.parquet", IMAGES[:4], labels, image="photo", label="target"))
    assert listing.classes == classes
    assert [listing.classes[label] for label in listing.splits["all"].labels] == [str(label) for label in labels]


@pytest.mark.parametrize("as_text", [True, False])
def test_class_names_are_in_unicode_form_nfc(tmp_path, as_text):
    names = [unicodedata.normalize("NFD", name) for name in ("café", "thé")]
    labels = [*names, unicodedata.normalize("NFC", names[0])] if as_text else [0, 1, 0]
    write_parquet(tmp_path / "a.parquet", IMAGES[:3], labels, *([] if as_text else [names]))
    listing = list_parquet(tmp_path)
    assert listing.classes == tuple(unicodedata.normalize("NFC", name) for name in names)
    assert listing.splits["all"].labels == (0, 1, 0)


def test_images_may_be_plain_bytes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1, 0], "jpeg": IMAGES[:2]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"no column is called label, .*--label-column n; columns: n \(int64\), jpeg"):
        list_parquet(tmp_path)
    listing = list_parquet(tmp_path, label_column="n")
    assert listing.splits["all"].storage == tuple(IMAGES[:2])
    assert listing.splits["all"].labels == (1, 0)


def test_a_column_of_splits_is_named_because_it_is_not_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = {"label": [0, 1, 0], "image": IMAGES[:3], "Split": ["train", "train", "test"]}
    pq.write_table(pa.table(content), tmp_path / "a.parquet")
    listing = list_parquet(tmp_path)
    assert set(listing.splits) == {"all"}
    assert listing.warnings[0].startswith("a.parquet: column Split is not read; make one file of each split")


def test_the_fine_label_of_cifar100_is_used(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": data} for data in IMAGES[:2]]
    pq.write_table(pa.table({"img": cells, "coarse_label": [5, 5], "fine_label": [0, 1]}), tmp_path / "a.parquet")
    assert list_parquet(tmp_path).splits["all"].labels == (0, 1)


def test_files_without_a_split_name_are_reported(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", IMAGES[:2], [0, 1])
    write_parquet(tmp_path / "training_notes.parquet", IMAGES[:2], [0, 1])
    listing = list_parquet(tmp_path)
    assert len(listing.splits["train"]) == 2
    assert listing.warnings == (
        "ignored 1 file not named after a split: training_notes.parquet; read with --split-folders",
    )


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        ([{"bytes": None, "path": "a.png"}, IMAGES[0]], [0, 1], None, r"row 0: the image is only a path \(a.png\)"),
        ([IMAGES[0], {"bytes": None, "path": None}], [0, 1], None, "row 1: there is no image; remove the row"),
        (IMAGES[:2], [0, 2], ("x", "y"), "row 1: label 2 is out of range; there are 2 classes from 0"),
        (IMAGES[:2], [0, -7], ("x", "y"), "row 1: label -7 is out of range"),
        (IMAGES[:2], [-1, 0], None, r"row 0: the label is missing \(-1\)"),
        (IMAGES[:2], [0, None], ("x", "y"), r"row 1: the label is missing \(None\)"),
        (["text", "text"], [0, 1], None, r"no column holds images as bytes; columns: image \(string\), label"),
        (
            IMAGES[:2],
            [0.5, 1.5],
            None,
            "row 0: label is 0.5, and a label is a whole number or text; name another column with --label-column",
        ),
    ],
)
def test_invalid_rows(tmp_path, images, labels, classes, message):
    file = write_parquet(tmp_path / "train-0.parquet", images, labels, classes)
    with pytest.raises(ConfigError, match=message) as error:
        list_parquet(file)
    assert "train-0.parquet" in str(error.value)
    assert "\n" not in str(error.value)


def test_invalid_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ConfigError, match=r"a.parquet: not a parquet file"):
        list_parquet(tmp_path)
    whole = write_parquet(tmp_path / "b" / "train-0.parquet", IMAGES[:2], [0, 1])
    content = bytearray(whole.read_bytes())
    content[8 : len(content) // 4] = bytes(len(content) // 4 - 8)
    whole.write_bytes(content)
    with pytest.raises(ConfigError, match=r"train-0.parquet: damaged"):
        list_parquet(tmp_path / "b")
    write_parquet(tmp_path / "c" / "test-0.parquet", IMAGES[:2], [0, 1])
    with pytest.raises(ConfigError, match=r"has test-0.parquet but no train-\*.parquet"):
        list_parquet(tmp_path / "c")
    write_parquet(tmp_path / "d" / "train-00001-of-00003.parquet", IMAGES[:2], [0, 1])
    with pytest.raises(ConfigError, match="is one of 3 files, of which 2 are missing, the first with number 00000"):
        list_parquet(tmp_path / "d")
    write_parquet(tmp_path / "e" / "train-0.parquet", IMAGES[:2], [0, 1], ("a", "b"))
    write_parquet(tmp_path / "e" / "test-0.parquet", IMAGES[:2], [0, 1], ("b", "a"))
    with pytest.raises(ConfigError, match=r"test-0.parquet: its class names differ from those of train-0.parquet"):
        list_parquet(tmp_path / "e")
    write_parquet(tmp_path / "f" / "train-0.parquet", IMAGES[:2], [0, 1])
    write_parquet(tmp_path / "f" / "test-0.parquet", IMAGES[:1], [2])
    with pytest.raises(ConfigError, match="test has images of class 2, but train has none"):
        list_parquet(tmp_path / "f")


def test_the_error_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", IMAGES[:2], [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"^reading parquet needs pyarrow: pip install 'resnetlab\[data\]'$"):
        list_parquet(file)


def test_a_changed_page_is_noticed_where_the_file_has_checksums(tmp_path):
    """Without compression no codec notices it; every bit of the pages' data matters."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    images = random_images(40)
    table = pa.table({"label": [number % 2 for number in range(len(images))], "image": [encode(x) for x in images]})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **options)
    data = path.read_bytes()
    start = data.index(encode(images[0]))
    end = data.index(encode(images[-1])) + len(encode(images[-1]))
    for position in random.Random(0).sample(range(start, end), 100):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ConfigError, match=r"a\.parquet: damaged \(.*checksum"):
            list_parquet(path)
    pq.write_table(table, path, **options)
    assert len(list_parquet(path).splits["all"]) == len(images)
