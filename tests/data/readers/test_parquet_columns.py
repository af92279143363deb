"""The image and label columns of parquet files: found, named by options, or refused."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.images import encode, random_images
from resnetlab.config import ConfigError
from resnetlab.data.readers.parquet import list_parquet

IMAGES = [encode(image) for image in random_images(4)]
DARK = [encode(image * 0) for image in random_images(4)]
CELLS = [{"bytes": data, "path": None} for data in IMAGES]
DARK_CELLS = [{"bytes": data, "path": None} for data in DARK]
NUMBERS, WORDS = [0, 1, 0, 1], ["a", "b", "a", "b"]
IMAGE, LABEL = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["x", "y"]}


def write(path, columns, features=None):
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path / "data.parquet")
    return path / "data.parquet"


@pytest.mark.parametrize(
    ("columns", "features", "taken", "warning"),
    [
        ({"image": CELLS, "label": NUMBERS}, None, ("image", "label"), None),
        ({"Image": CELLS, "Label": NUMBERS}, None, ("Image", "Label"), None),
        ({"scan": CELLS, "class": WORDS}, None, ("scan", "class"), None),
        ({"hash": [b"0123456789abcdef"] * 4, "scan": CELLS, "label": NUMBERS}, None, ("scan", "label"), None),
        ({"thumbnail": DARK_CELLS, "image": CELLS, "label": NUMBERS}, None, ("image", "label"), "thumbnail also holds"),
        (
            {"mask": DARK_CELLS, "image": CELLS, "label": NUMBERS},
            {"mask": IMAGE, "image": IMAGE, "label": LABEL},
            ("image", "label"),
            r"column image is read; mask also holds images \(--image-column\)",
        ),
        ({"img": DARK_CELLS, "image": CELLS, "label": NUMBERS}, None, ("image", "label"), "img also holds images"),
        ({"image": CELLS, "width": NUMBERS, "label": WORDS}, None, ("image", "label"), None),
        ({"__index_level_0__": [0, 1, 2, 3], "image": CELLS, "label": WORDS}, None, ("image", "label"), None),
        (
            {"image": CELLS, "target": NUMBERS, "label": NUMBERS},
            None,
            ("image", "label"),
            r"column label is read; target may be the label too \(--label-column\)",
        ),
        (
            {"image": CELLS, "coarse_label": NUMBERS, "fine_label": NUMBERS},
            {"image": IMAGE, "coarse_label": LABEL, "fine_label": LABEL},
            ("image", "fine_label"),
            "column fine_label is read; coarse_label may be the label too",
        ),
        (
            {"image": CELLS, "id": [0, 1, 2, 3], "breed": NUMBERS},
            {"image": IMAGE, "breed": LABEL},
            ("image", "breed"),
            None,
        ),
    ],
)
def test_columns_are_found(tmp_path, columns, features, taken, warning):
    listing = list_parquet(write(tmp_path, columns, features))
    assert listing.columns == dict(zip(("image", "label"), taken, strict=True))
    assert listing.splits["all"].storage == tuple(IMAGES)
    assert list(listing.splits["all"].labels) == NUMBERS
    assert len(listing.warnings) == (warning is not None)
    assert warning is None or re.search(warning, listing.warnings[0])


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        (
            {"image": CELLS, "category": WORDS, "__index_level_0__": [0, 1, 2, 3]},
            None,
            "--label-column category; columns",
        ),
        ({"image": CELLS, "breed": WORDS, "width": NUMBERS}, None, "--label-column breed; columns: image .*width"),
        (
            {"image": CELLS, "index": NUMBERS},
            None,
            "no column is called label, .*--label-column COLUMN; columns: image",
        ),
        ({"image": CELLS, "id": NUMBERS}, None, "no column is called label"),
        ({"image": CELLS, "height": NUMBERS}, None, "no column is called label"),
        ({"image": CELLS, "n": NUMBERS}, None, "--label-column n"),
        (
            {"image": CELLS, "breed": NUMBERS, "sex": NUMBERS},
            {"image": IMAGE, "breed": LABEL, "sex": LABEL},
            r"several columns hold labels \(breed, sex\); name the column with --label-column breed",
        ),
        (
            {"front": CELLS, "back": DARK_CELLS, "label": NUMBERS},
            None,
            r"several columns hold images \(front, back\); name one with --image-column front; columns: front",
        ),
        ({"img": CELLS, "photo": DARK_CELLS, "label": NUMBERS}, None, r"several columns hold images \(img, photo\)"),
        ({"image": WORDS, "label": NUMBERS}, None, "no column holds images as bytes; columns: image"),
        ({"image": CELLS, "label": [[0], [1], [0], [1]]}, None, "column label has type list<"),
        ({"image": CELLS, "label": [0.0, 0.5, 1.0, 1.0]}, None, "row 1: label is 0.5, and a label is a whole number"),
        ({"image": CELLS, "label": [0.0, float("nan"), 1.0, 1.0]}, None, r"row 1: the label is missing \(nan\)"),
        ({"image": CELLS, "label": ["a", "", "b", "b"]}, None, r"row 1: the label is missing \(empty\)"),
    ],
)
def test_what_could_be_two_things_is_refused(tmp_path, columns, features, message):
    with pytest.raises(ConfigError, match=message) as error:
        list_parquet(write(tmp_path, columns, features))
    assert "\n" not in str(error.value)


def test_named_columns(tmp_path):
    file = write(tmp_path, {"mask": DARK_CELLS, "image": CELLS, "label": NUMBERS, "width": [64, 65, 65, 64]})
    listing = list_parquet(file, image_column="mask", label_column="width")
    assert listing.columns == {"image": "mask", "label": "width"}
    assert listing.splits["all"].storage == tuple(DARK)
    assert (listing.classes, listing.splits["all"].labels, listing.warnings) == (("64", "65"), (0, 1, 1, 0), ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "foto"}, "has no column 'foto' for --image-column; columns: image"),
        ({"image_column": "label"}, "column 'label' does not hold images as bytes"),
        ({"label_column": "klass"}, "has no column 'klass' for --label-column; columns: image"),
        ({"label_column": "image"}, "column 'image' cannot be the label: it has type struct"),
        ({"label_column": "when"}, r"column 'when' cannot be the label: it has type timestamp"),
    ],
)
def test_named_columns_must_fit(tmp_path, options, message):
    columns = {"image": CELLS, "label": NUMBERS, "when": pa.array(NUMBERS, pa.timestamp("ms"))}
    with pytest.raises(ConfigError, match=message):
        list_parquet(write(tmp_path, columns), **options)


def struct(data, path):
    return pa.StructArray.from_arrays([data, path], ["bytes", "path"])


@pytest.mark.parametrize(
    ("image", "label", "classes"),
    [
        (pa.array(IMAGES).cast(pa.binary_view()), pa.array(WORDS).cast(pa.string_view()), "a b"),
        (pa.array(IMAGES).cast(pa.large_binary()), pa.array(WORDS).cast(pa.large_string()), "a b"),
        (
            struct(pa.array(IMAGES).cast(pa.binary_view()), pa.array(WORDS).cast(pa.string_view())),
            pa.array(WORDS).dictionary_encode(),
            "a b",
        ),
        (pa.array(IMAGES).dictionary_encode(), pa.array(NUMBERS, pa.uint8()), "0 1"),
        (pa.array(IMAGES), pa.array(NUMBERS, pa.float64()), "0 1"),
        (pa.array(IMAGES), pa.array([False, True, False, True]), "false true"),
    ],
)
def test_types_that_other_programs_write(tmp_path, image, label, classes):
    listing = list_parquet(write(tmp_path, {"image": image, "label": label}))
    assert listing.classes == tuple(classes.split())
    assert listing.splits["all"].storage == tuple(IMAGES)
    assert listing.splits["all"].labels == (0, 1, 0, 1)


def test_a_label_for_each_image_is_reported(tmp_path):
    file = write(tmp_path, {"image": CELLS * 3, "label": list(range(12))})
    assert list_parquet(file).warnings == (
        "each of the 12 images has a class of its own; is label the label? (--label-column)",
    )


def test_long_names_give_short_messages(tmp_path):
    columns = {"x" * 300: CELLS, "y" * 300: CELLS, "label": NUMBERS} | {f"c{number}": NUMBERS for number in range(300)}
    with pytest.raises(ConfigError, match="several columns hold images") as error:
        list_parquet(write(tmp_path, columns))
    assert len(str(error.value).removeprefix(str(tmp_path))) < 500
