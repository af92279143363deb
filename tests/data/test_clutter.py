"""Files and folders that are no data: those of operating systems, network drives and resnetlab itself."""

import json

import pytest
from PIL import Image

from helpers.images import write_tree
from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.left_out import MAX_LINE, LeftOutCounter, Reason, join_names, shorten
from resnetlab.data.listing import DatasetListing, describe_listing
from resnetlab.data.readers.folder import list_folder
from resnetlab.inference.overlay_writer import OverlayWriter
from resnetlab.serialization import to_json

SYSTEM = (
    *("@eaDir", "#recycle", "@Recycle", ".AppleDouble", "__MACOSX", ".Trashes", "$RECYCLE.BIN"),
    *("System Volume Information", "lost+found", ".ipynb_checkpoints", "__pycache__", ".git", ".cache"),
)
SYSTEM_FILES = ("._1.jpg", "Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "Icon\r", "1.jpg:Zone.Identifier")


def add(root, name, content=b"x"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def left_out(listing):
    return {group.reason: group.count for group in listing.left_out}


def overlays(folder, *names):
    writer = OverlayWriter(folder)
    for name in names:
        writer.write(name, Image.new("RGB", (4, 4)))


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "photos", {"a": 2, "b": 2})


def check_classes_only(tree, reason, count):
    listing = list_folder(tree)
    assert listing.classes == ("a", "b")
    assert len(listing.splits["all"]) == 4
    assert (left_out(listing), listing.warnings) == ({reason: count}, ())


@pytest.mark.parametrize("where", [".", "a"])
def test_folders_of_systems(tree, where):
    write_tree(tree / where, {f"{name}/x.jpg": 1 for name in SYSTEM})
    check_classes_only(tree, "system files and folders", len(SYSTEM))


@pytest.mark.parametrize("where", [".", "b"])
def test_files_of_systems(tree, where):
    for name in SYSTEM_FILES:
        add(tree / where, name)
    check_classes_only(tree, "system files and folders", len(SYSTEM_FILES))


def test_hidden_files(tree):
    add(tree, "a/.secret.png")
    add(tree, ".idea/1.png")
    check_classes_only(tree, "hidden files and folders", 2)


def test_a_virtual_environment(tree):
    write_tree(tree, {"env/lib/mpl-data": 2})
    add(tree, "env/pyvenv.cfg")
    check_classes_only(tree, "system files and folders", 1)


def add_run(folder):
    add(folder, "config.json", json.dumps(to_json(RunConfig())).encode())
    add(folder, "record.jsonl", b"")


def add_study(folder):
    add_run(folder / "runs" / "x")
    write_tree(folder, {"figures": 2})
    add(folder, "results.json", b"{}")


@pytest.mark.parametrize(
    "write",
    [
        lambda root: add_run(root / "runs" / "x"),
        lambda root: add_run(root / "any name"),
        lambda root: add_run(root / "several" / "runs of" / "mine"),
        lambda root: add(root, "runs/x/.lock"),
        lambda root: (root / "explained").mkdir(),
        lambda root: add_study(root / "studies" / "photos"),
        lambda root: add_study(root / "mine"),
        lambda root: overlays(root / "explained", "1.jpg", "2.jpg"),
        lambda root: overlays(root / "heat maps", "1.jpg", "2.jpg"),
        lambda root: add(root, "packed/index.json", b'{"format": "resnetlab shards"}'),
        lambda root: add(root, "packed/.packing.json", b"{}"),
        lambda root: (
            write_tree(root, {"net-diagnosis": 1})
            and (root / "net-diagnosis/000.png").rename(root / "net-diagnosis/gradients.png")
        ),
        lambda root: overlays(root / "a", "a/000.png"),
    ],
)
def test_outputs_are_no_class(tree, write):
    write(tree)
    check_classes_only(tree, "outputs of resnetlab", 1)


def test_overlays_among_other_images(tree):
    for name in ("000.jpg", "001.jpg"):
        (tree / "b" / name.replace("jpg", "png")).rename(tree / "b" / name)
    overlays(tree / "b", "b/000.jpg", "b/001.jpg", "other.jpg")
    check_classes_only(tree, "outputs of resnetlab", 3)


def test_classes_with_the_names_of_outputs(tmp_path):
    listing = list_folder(write_tree(tmp_path, {"runs": 2, "explained": 2, "studies": 2}))
    assert listing.classes == ("explained", "runs", "studies")
    assert listing.left_out == ()


def test_a_foreign_config_in_a_class(tree):
    add(tree, "a/config.json", b'{"camera": 1}')
    listing = list_folder(tree)
    assert listing.classes == ("a", "b")
    assert listing.warnings == ("ignored files that are not images: 1 .json",)


def test_outputs_beside_splits(tmp_path):
    write_tree(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    add_run(tmp_path / "runs" / "x")
    overlays(tmp_path / "explained", "1.jpg")
    add(tmp_path, "test/Thumbs.db")
    listing = list_folder(tmp_path)
    assert left_out(listing) == {"outputs of resnetlab": 2, "system files and folders": 1}
    assert listing.left_out[0].line == "ignored 2 outputs of resnetlab: explained/, runs/"


@pytest.mark.parametrize("mark", [lambda folder: (folder / "runs").mkdir(), lambda folder: add_study(folder)])
@pytest.mark.parametrize("where", ["train", "test", "train/a"])
def test_a_split_or_class_with_outputs_in_it_is_read(tmp_path, mark, where):
    write_tree(tmp_path, {"train/a/left": 2, "train/a/right": 2, "train/b": 1, "test/a": 1, "test/b": 1})
    mark(tmp_path / where)
    listing = list_folder(tmp_path)
    assert {split: len(part) for split, part in listing.splits.items()} == {"train": 5, "test": 2}


def test_a_folder_with_nothing_but_outputs_has_no_class(tmp_path):
    add_run(tmp_path / "runs" / "x")
    with pytest.raises(ConfigError, match="has no image; expected class folders"):
        list_folder(tmp_path)


def test_lines_stay_short_whatever_the_names(tmp_path):
    long = {f"class {number} " + "x" * 200: 1 for number in range(200)}
    write_tree(tmp_path, long)
    for number in range(400):
        add(tmp_path, f"{number}" + "y" * 200 + f".s{number}")
        add(tmp_path, f".{number}" + "y" * 200)
    listing = list_folder(tmp_path)
    lines = (*describe_listing(listing), *(group.line for group in listing.left_out), *listing.warnings)
    assert max(map(len, lines)) <= 160
    assert sum(group.count for group in listing.left_out) == 800
    assert all(len(group.examples) <= 3 for group in listing.left_out)
    assert lines[2].startswith("classes: 200 (class 0 xxx")


@pytest.mark.parametrize("length", range(1, 12))
def test_the_line_of_classes_fits_below_a_heading_of_train(length):
    """`train` indents it by 9 columns; it would wrap to a line with the bracket alone."""
    classes = tuple(f"{number:0{length}}" for number in range(100))
    line = describe_listing(DatasetListing(classes, {}))[1]
    assert line.startswith("classes: 100 (")
    assert line.endswith(", …)")
    assert 60 <= 9 + len(line) <= 80


def test_names_in_lines():
    assert shorten("a\nb\x1b[31m") == "a?b?[31m"
    assert shorten("x" * 100, 11) == "xxxxx…xxxxx"
    assert join_names(["a", "b", "c"], 100) == "a, b, c"
    assert join_names(["a", "b", "c"], 100, 9) == "a, b, c, …"
    assert join_names(["aaaa", "bbbb", "cccc"], 10) == "aaaa, …"
    assert join_names([], 10) == ""
    counter = LeftOutCounter()
    for number in range(5):
        counter.add(Reason("thing", "things", hint="do this"), f"{number}" * 90)
    (group,) = counter.summary()
    assert (group.count, len(group.examples), group.reason) == (5, 3, "things")
    assert group.line.startswith("ignored 5 things: 0000")
    assert group.line.endswith("…; do this")
    assert len(group.line) <= MAX_LINE
