"""Tables of labels: columns, splits, one class or several labels, and errors that name the row."""

import errno
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import write_tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data
from resnetlab.data.readers.label_table import list_label_table
from resnetlab.data.readers.table_columns import find_tables
from resnetlab.data.registry import detect_kind
from resnetlab.data.splits import stratified_label_split, stratified_subset


@pytest.fixture
def images(tmp_path):
    """A folder with eight small images, a.png to h.png."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in "abcdefgh":
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"images/{name}.png")
    return tmp_path


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def labels_by_file(listing, split="all"):
    part = listing.splits[split]
    return {
        name: [listing.classes[label] for label in np.flatnonzero(row)]
        for name, row in zip(part.names, part.label_matrix, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("labels.csv", ("file,labels", "images/a.png,sea;sun", "images/b.png,", "images/c.png,sun")),
        ("labels.csv", ("labels,width,file", "sea|sun,8,images/a.png", ",8,images/b.png", "sun ,8,images/c.png")),
        ("labels.tsv", ("Filename\tTags", "images/a.png\tsun, sea", "images/b.png\t", "images/c.png\tsun")),
        ("labels.csv", ("file;labels", "images/a.png;sea|sun", "images/b.png;", "images/c.png;sun")),
        ("labels.csv", ("file,labels", 'images/a.png,"sea, sun"', "images/b.png,", "images/c.png,sun")),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_several_labels(images, name, lines, encoding):
    path = write(images / name, *lines, encoding=encoding)
    expected = {"images/a.png": ["sea", "sun"], "images/b.png": [], "images/c.png": ["sun"]}
    for given in (path, images):
        listing = list_label_table(given)
        assert listing.is_multi_label
        assert labels_by_file(listing) == expected
        assert detect_kind(DataConfig(str(given))) == "table"


def test_splits_are_a_column_or_files(images):
    rows = ("a.png,x;y,train", "b.png,y,TRAIN", "c.png,x,valid", "d.png,x,test")
    column = list_label_table(write(images / "labels.csv", "file,labels,split", *(f"images/{row}" for row in rows)))
    (images / "labels.csv").unlink()
    labels = {"a": "x;y", "b": "y", "c": "x", "d": "x"}
    for split, names in (("train", "ab"), ("val", "c"), ("test", "d")):
        write(images / f"{split}.csv", "file,labels", *(f"images/{name}.png,{labels[name]}" for name in names))
    assert find_tables(images).keys() == {"train", "val", "test"}
    files = list_label_table(images)
    for split in ("train", "val", "test"):
        assert labels_by_file(files, split) == labels_by_file(column, split)
    assert files.sources == {"train": "train.csv", "val": "val.csv", "test": "test.csv"}
    assert column.warnings == files.warnings
    assert column.warnings[1:] == ("val has no image of class y", "test has no image of class y")


def test_one_class_is_the_same_data_as_class_folders(tmp_path):
    tree = write_tree(tmp_path / "tree", {"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 2})
    files = sorted(path.relative_to(tree) for path in tree.rglob("*.png"))
    write(
        tree / "table.csv",
        "file,label,split",
        *(f"{path.as_posix()},{path.parts[1]},{path.parts[0]}" for path in files),
    )
    folder, table = open_data(DataConfig(str(tree))), open_data(DataConfig(str(tree / "table.csv")))
    assert table.classes == ("cat", "dog")
    assert not table.train.is_multi_label
    assert table.fingerprint == folder.fingerprint
    assert table.reading[0] == "read as: images in a table, one class an image"


def test_a_table_of_another_name_is_not_read_by_itself(tmp_path):
    tree = write_tree(tmp_path, {"cat": 2, "dog": 2})
    write(tree / "annotations.csv", "file,label", "cat/000.png,dog")
    write(tree / "labels.csv", "id,colour", "1,red")  # not the columns that are needed
    assert detect_kind(DataConfig(str(tree))) == "folder"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,colour", "images/a.png,red"), r"columns file,colour; expected a column file and a column label"),
        (("file,path,labels", "images/a.png,x,y"), "columns file, path could be meant; rename all but one"),
        (("file,labels",), "has no rows"),
        (("file,labels", "images/a.png,x;y", "images/b.png,x|y"), r"';' \(row 2 .*'\|' \(row 3 .*use one of them"),
        (("file,labels", "images/z.png,x"), r"row 2: images/z.png is no file in"),
        (("file,labels", ",x"), "row 2 names no file"),
        (("file,labels", "/etc/hostname,x"), "row 2: /etc/hostname must be relative to"),
        (("file,labels", "images/a.png,x", "images/a.png,y"), "row 3: images/a.png is in row 2 of .* too; give each"),
        *(
            (
                ("file,label,split", "images/a.png,x,train", f"{again},y,test"),
                "row 3: .* is in row 2 of .* too; give each",
            )
            for again in ("./images/a.png", "images/../images/a.png", "images//a.png", "images/./a.png")
        ),
        (("file,label", "images/a.png,x", "images/b.png,"), "row 3 has no label; add one, or name the column labels"),
        (("file,labels", "images/a.png,x,y"), "row 2 has another number of columns than the header"),
        (("file,labels,split", "images/a.png,x,fold1"), "row 2: split fold1; each row is of train, val or test"),
        (("file,labels,split", "images/a.png,x,test"), "no row is of split train"),
        *(
            (("file,label,split", *(f"images/{name}.png,x,{split}" for name, split in rows)), message)
            for rows, message in (
                (
                    (("a", "train"), ("b", "dev"), ("c", "eval")),
                    "splits dev and eval are both val; give each split one name",
                ),
                ((("a", "train"), ("b", "trainval"), ("c", "test")), "splits train and trainval are both train"),
                ((("a", "train"), ("b", "test"), ("c", "Testing")), "splits test and Testing are both test"),
            )
        ),
        (("file,labels", "images/a.png,", "images/b.png,"), "there is no label; a classifier needs"),
        (
            ("file,labels,split", "images/a.png,x,train", "images/b.png,y,val"),
            r"val .*has images of class y, but train",
        ),
        (("file,labels", 'images/a.png,"x'), "cannot be read as a table"),
    ],
)
def test_errors_name_the_row(images, lines, message):
    with pytest.raises(ConfigError, match=message):
        list_label_table(write(images / "t.csv", *lines))


def test_one_name_in_two_unicode_forms_is_one_image(images):
    for form in ("NFC", "NFD"):
        (images / "images/a.png").with_name(unicodedata.normalize(form, "é.png")).write_bytes(b"x")
    rows = [f"images/{unicodedata.normalize(form, 'é.png')},{form}" for form in ("NFC", "NFD")]
    with pytest.raises(ConfigError, match=r"row 3: .* is in row 2"):
        list_label_table(write(images / "t.csv", "file,label", *rows))


def test_images_that_no_row_names_are_counted(images):
    write_tree(images, {"more/deep": 2, ".hidden": 1, "runs": 0})
    (images / "loose.jpg").write_bytes(b"x")
    path = write(images / "labels.csv", "file,label", *(f"./images/{name}.png,{name}" for name in "abcdef"))
    given, whole = list_label_table(path), list_label_table(images)
    assert [(group.count, group.is_warning) for group in (*given.left_out, *whole.left_out)] == [(2, True), (5, True)]
    assert given.warnings == ("ignored 2 images that no row names: images/g.png, images/h.png",)
    assert whole.warnings == (whole.left_out[0].line,)
    write(path, "file,label", *(f"images/{name}.png,{name}" for name in "abcdefgh"))
    assert list_label_table(path).left_out == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("train.csv val.csv eval.csv", "eval.csv and val.csv are both of val"),
        ("train.csv train.tsv", "train.csv and train.tsv are both of train"),
        ("train.csv test.csv labels.csv", "labels.csv and test.csv are of all images and of a split"),
        ("labels.csv Labels.csv", "Labels.csv and labels.csv are both of all images"),
    ],
)
def test_two_tables_of_one_split_are_refused(images, names, message):
    for name in names.split():
        write(images / name, "file,label".replace(",", "\t" if name.endswith("tsv") else ","), "images/a.png,x")
    with pytest.raises(ConfigError, match=f"the tables {message}; rename one of them"):
        detect_kind(DataConfig(str(images)))
    write(images / names.split()[-1], "id,colour", "1,red")  # no table of labels
    assert detect_kind(DataConfig(str(images))) == "table"


def test_a_table_of_an_unsure_split_is_named(images):
    write(images / "train.csv", "file,label", "images/a.png,x", "images/b.png,y")
    write(images / "holdout.csv", "file,label", "images/c.png,x", "images/d.png,y")
    assert "holdout.csv is read as val; if it is the test split, rename it" in list_label_table(images).warnings


@pytest.mark.parametrize("split", ["eval", "Holdout"])
def test_a_row_of_an_unsure_split_is_named(images, split):
    rows = ["images/a.png,x,train", "images/b.png,y,train", f"images/c.png,x,{split}", f"images/d.png,y,{split}"]
    listing = list_label_table(write(images / "t.csv", "file,label,split", *rows))
    assert listing.warnings[1:] == (
        f"split {split} is read as val; if it is the test split, write test in the column split",
    )


@pytest.mark.parametrize(
    ("prefix", "option"), [("", "--split-folders all=."), ("train/", "--split-folders train=train")]
)
def test_class_folders_beside_a_table(tmp_path, prefix, option):
    tree = write_tree(tmp_path, {f"{prefix}cat": 3, f"{prefix}dog": 3})
    table = write(tree / "train.csv", "filename,label", f"{prefix}cat/000.png,x", f"{prefix}dog/000.png,y")
    listing = list_dataset(DataConfig(str(tree)))
    assert f"train.csv is read, not the folders; for those give {option}" in listing.warnings
    chosen = DataConfig(str(tree), split_folders=option.split()[1])
    assert detect_kind(chosen) == "folder"
    assert list_dataset(chosen).classes == ("cat", "dog")
    write(table, "filename,label", "000.png,x")
    with pytest.raises(ConfigError, match=f"is no file in .*; if its folders are the classes, give {option}"):
        list_dataset(DataConfig(str(tree)))


def test_folders_of_splits_beside_their_tables_are_no_classes(tmp_path):
    tree = write_tree(tmp_path, {"train": 2, "test": 2})
    for split in ("train", "test"):
        write(tree / f"{split}.csv", "file,label", *(f"{split}/00{number}.png,{number}" for number in range(2)))
    assert list_label_table(tree).warnings == ()


def test_a_folder_that_cannot_be_read_is_named(images, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    path = write(images / "labels.csv", "file,label", "images/a.png,x", "images/b.png,y")
    monkeypatch.setattr("resnetlab.data.readers.label_table.os.scandir", refuse)
    with pytest.raises(ConfigError, match=r"images: cannot be read \(Permission denied\)$"):
        list_label_table(path)


def test_files_that_are_no_text(images):
    (images / "t.csv").write_bytes(b"file,labels\nimages/a.png,caf\xe9\n")
    with pytest.raises(ConfigError, match="cannot be read as a table in UTF-8"):
        list_label_table(images / "t.csv")


def test_tables_of_two_kinds_are_refused(images):
    write(images / "train.csv", "file,labels", "images/a.png,x;y")
    write(images / "test.csv", "file,label", "images/b.png,x")
    with pytest.raises(ConfigError, match=r"train.csv has a column labels and .*test.csv a column label"):
        list_dataset(DataConfig(str(images)))


def test_spaces_may_be_separators(images):
    listing = list_label_table(write(images / "t.csv", "file,labels", "images/a.png,clear sky", "images/b.png,"))
    assert listing.warnings[1:] == ("clear sky is read as one label; separate labels by ; if it is several",)


def test_one_label_an_image_may_be_its_class(images):
    path = write(images / "t.csv", "file,labels", "images/a.png,sky", "images/b.png,sea")
    line = "each image has one label; call the column label, not labels, if it is its class"
    assert line in list_label_table(path).warnings
    for more in ("images/c.png,", "images/c.png,sky;sea"):
        write(path, "file,labels", "images/a.png,sky", "images/b.png,sea", more)
        assert line not in list_label_table(path).warnings


def test_options_of_other_kinds_are_refused(images):
    path = write(images / "labels.csv", "file,labels", "images/a.png,x;y")
    for config in (DataConfig(str(path), label_column="labels"), DataConfig(str(path), split_folders="train=a")):
        with pytest.raises(ConfigError, match=r"is for .*, and .* is a table of labels; leave it out"):
            detect_kind(config)


def test_every_split_has_its_share_of_every_label():
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.2, 0.05, 0.02])
    labels = torch.rand(1000, 4, generator=rng) < shares
    parts = stratified_label_split(labels, {"val": 0.1, "test": 0.2}, 0)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(1000))
    for name, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert len(parts[name]) == pytest.approx(1000 * share, abs=3)
        assert labels[parts[name]].sum(0).numpy() == pytest.approx(share * labels.sum(0).numpy(), abs=2)
    again, other = (stratified_label_split(labels, {"val": 0.1, "test": 0.2}, seed) for seed in (0, 1))
    assert all(torch.equal(again[name], parts[name]) for name in parts)
    assert not torch.equal(other["val"], parts["val"])
    small, large = (set(stratified_subset(labels, count, 0).tolist()) for count in (50, 200))
    assert (len(small), len(large)) == (50, 200)
    assert small < large
