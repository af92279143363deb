"""`resnetlab embed`: the files of features, neighbours, errors; nothing is left of a file that is not finished."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from helpers.small_network import model_file
from resnetlab.cli.main import main
from resnetlab.inference import embedding_files
from resnetlab.inference.predictor import load

NAMES = [f"photos/{number}.png" for number in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Write a model file and images; photos/4.png is a brighter copy of photos/1.png."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    model_file(root / "net.safetensors")
    (root / "photos").mkdir()
    pixels = [rng.integers(0, 240, (40, 40, 3), dtype=np.uint8) for _ in range(4)]
    for name, image in zip(NAMES, [*pixels, pixels[1] + 10], strict=True):
        Image.fromarray(image).save(root / name)
    (root / "bad.jpg").write_text("words")
    return root


@pytest.fixture(autouse=True)
def working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)


def run(*words: object) -> int:
    return main(["embed", "net.safetensors", *map(str, words)])


@pytest.mark.parametrize("row_group", [2, 1024])
def test_parquet_has_the_rows_in_order(tmp_path, capsys, monkeypatch, row_group):
    monkeypatch.setattr(embedding_files, "ROW_GROUP", row_group)  # 5 rows in three groups
    out = tmp_path / "features.parquet"
    assert run("photos", "--out", out, "--batch-size", 3) == 0
    assert capsys.readouterr().out == f"{out}: 5 images, 64 features each\n"
    predictor, file = load("net.safetensors"), parquet.ParquetFile(out)
    assert file.num_row_groups == -(-5 // row_group)
    table = file.read().to_pydict()
    assert table["path"] == NAMES
    expected = predictor([Path(name) for name in NAMES])
    assert table["label"] == [prediction.label for prediction in expected]
    assert table["probability"] == pytest.approx([prediction.probability for prediction in expected], abs=1e-4)
    np.testing.assert_allclose(np.array(table["features"]), predictor.embed([Path(name) for name in NAMES]), rtol=1e-5)


def test_npy_has_the_names_beside_it(tmp_path, capsys):
    out = tmp_path / "features.npy"
    assert run(*NAMES[:3], "bad.jpg", NAMES[3], "--out", out, "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"out": str(out), "num_images": 4, "num_features": 64}
    assert printed.err == (
        "resnetlab: bad.jpg: a text file, not an image\nresnetlab: 1 of 5 images could not be read\n"
    )
    features = np.load(out)
    assert (features.dtype, features.shape) == (np.float32, (4, 64))
    expected = load("net.safetensors").embed([Path(name) for name in NAMES[:4]])
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "features.npy.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == NAMES[:4]
    assert set(rows[0]) == {"path", "label", "probability"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["features.npy", "features.npy.jsonl"]


def cosines(names):
    features = load("net.safetensors").embed([Path(name) for name in names]).astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def test_neighbours_of_each_image_leave_it_out(tmp_path, capsys):
    assert run("photos", "--nearest", 2, "--json", "--out", tmp_path / "features.npy") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["path"] for record in records] == NAMES
    similar = cosines(NAMES) - 2 * np.eye(5)
    for row, record in enumerate(records):
        best = np.argsort(-similar[row])[:2]
        assert [near["path"] for near in record["nearest"]] == [NAMES[index] for index in best]
        assert [near["similarity"] for near in record["nearest"]] == pytest.approx(similar[row, best], abs=1e-5)
    assert records[1]["nearest"][0]["path"] == NAMES[4]  # the copy
    assert np.load(tmp_path / "features.npy").shape == (5, 64)


def test_neighbours_of_queries(capsys):
    assert run(*NAMES[:4], "--nearest", 9, "--query", NAMES[4], "bad.jpg") == 1
    printed = capsys.readouterr()
    order = np.argsort(-cosines(NAMES)[4, :4])
    expected = ", ".join(f"{NAMES[row]} {cosines(NAMES)[4, row]:.3f}" for row in order)
    assert printed.out == f"{NAMES[4]}: {expected}\n"
    assert "resnetlab: 1 of 2 images could not be read" in printed.err
    assert run(NAMES[0], "--nearest", 3) == 0
    assert capsys.readouterr().out == f"{NAMES[0]}: no other image\n"


def test_a_query_is_not_its_own_neighbour(tmp_path, capsys):
    (tmp_path / "link.png").symlink_to(Path(NAMES[1]).resolve())
    queries = ["./photos/1.png", NAMES[1], str(tmp_path / "link.png"), "photos/../photos/0.png"]
    assert run("photos", tmp_path, "--nearest", 9, "--json", "--query", *queries) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["path"] for record in records] == queries
    for record in records[:3]:  # the link among the images is the same file
        assert sorted(near["path"] for near in record["nearest"]) == [NAMES[0], *NAMES[2:]]
        assert record["nearest"][0]["path"] == NAMES[4]
    assert sorted(near["path"] for near in records[3]["nearest"]) == sorted([*NAMES[1:], queries[2]])


def test_an_image_that_is_named_twice_is_not_its_own_neighbour(capsys):
    assert run(NAMES[0], NAMES[0], NAMES[2], "--nearest", 2) == 0
    similar = f"{cosines(NAMES)[0, 2]:.3f}"
    assert capsys.readouterr().out == (
        f"{NAMES[0]}: {NAMES[2]} {similar}\n" * 2 + f"{NAMES[2]}: {NAMES[0]} {similar}, {NAMES[0]} {similar}\n"
    )
    assert run(NAMES[0], "--nearest", 2, "--query", NAMES[0]) == 0
    assert capsys.readouterr().out == f"{NAMES[0]}: no other image\n"


def test_names_are_escaped(tmp_path, capsys):
    name = os.fsdecode(b"odd \xff\x1b[1m\n.png")
    Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    assert run(tmp_path, NAMES[0], "--nearest", 1, "--out", tmp_path / "a.parquet") == 0
    assert "\x1b" not in (output := capsys.readouterr().out)
    assert output.count("\n") == 2
    assert parquet.read_table(tmp_path / "a.parquet")["path"][0].as_py().endswith("odd �\x1b[1m\n.png")
    assert run(tmp_path, "--out", tmp_path / "a.npy") == 0
    row = json.loads((tmp_path / "a.npy.jsonl").read_text())
    assert row["path"] == str(tmp_path / name)


def test_an_older_file_stays_if_nothing_can_be_written(tmp_path, capsys, monkeypatch):
    out = tmp_path / "features.npy"
    out.write_text("older")
    assert run("bad.jpg", "--out", out) == 1
    assert f"resnetlab: none of the images can be read, so {out} is not written\n" in capsys.readouterr().err

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedding_files.NpyFile, "_write", full)
    assert run("photos", "--out", out) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert out.read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a file with --out features.parquet, or print neighbours with --nearest 5"),
        (("--out", "features.csv"), "--out features.csv: features are written as .parquet or .npy"),
        (("--out", "nowhere/a.npy"), "there is no folder nowhere"),
        (("--out", "a.npy", "--query", "photos"), "--query needs the number of neighbours"),
        (("--nearest", 0), "nearest must be at least 1, not 0"),
    ],
)
def test_wrong_calls(words, message, capsys, monkeypatch):
    monkeypatch.setattr("resnetlab.inference.predictor.load", lambda *_, **__: pytest.fail("too late"))
    assert run("photos", *words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_images_after_the_query_are_pointed_out(capsys):
    assert run("--nearest", 1, "--query", "a.jpg", "photos") == 2
    assert "no images besides those of --query, which takes all words after it; put the im" in capsys.readouterr().err
