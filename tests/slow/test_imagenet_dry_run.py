"""A small ILSVRC-2012: a thousand classes in its layout, both recipes, once from shards, evaluated with ten crops."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import DataConfig
from resnetlab.data.list_dataset import list_dataset
from resnetlab.models.model_file import load_model
from resnetlab.training.run_files.record import read_record

from conftest import resnetlab

CLASSES, OF_EACH, VAL = 1000, 2, 300
WNIDS = [f"n{number:08}" for number in range(1_440_000, 1_440_000 + CLASSES)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training folders by WordNet number, a flat validation folder, and Kaggle's lists."""
    root = tmp_path_factory.mktemp("ilsvrc") / "imagenet"
    rng = np.random.default_rng(0)

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(36, 60, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, "JPEG")

    for wnid in WNIDS:
        for number in range(OF_EACH):
            write(root / "train" / wnid / f"{wnid}_{number}.JPEG")
    truth = rng.permutation(CLASSES)
    for number in range(1, VAL + 1):
        write(root / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    rows = [f"ILSVRC2012_val_{number:08},{WNIDS[truth[number - 1]]} 1 2 30 30" for number in range(1, VAL + 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    mapping = [f"{wnid} thing {number}, other name" for number, wnid in enumerate(WNIDS)]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(mapping) + "\n")
    return root


def done(*words: str | Path) -> str:
    ran = resnetlab(*words, timeout=280)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_from_the_tree_to_ten_crops(tree, tmp_path):
    shards = tmp_path / "shards"
    done("data", "pack", tree, "--out", shards, "--max-side", "40", "--shard-mib", "2")
    index = json.loads((shards / "index.json").read_text())
    assert index["classes"] == [f"thing {number}" for number in range(CLASSES)]
    assert {split: sum(entry["samples"] for entry in entries) for split, entries in index["splits"].items()} == {
        "train": CLASSES * OF_EACH,
        "val": VAL,
    }
    with (tree / "LOC_val_solution.csv").open() as file:
        truth = {row[0]: WNIDS.index(row[1].split()[0]) for row in list(csv.reader(file))[1:]}
    for data in (tree, shards):
        val = list_dataset(DataConfig(str(data))).splits["val"]
        assert {Path(name).stem: label for name, label in zip(val.names, val.labels, strict=True)} == truth
    for recipe, data in (("imagenet-90", shards), ("imagenet-paper", tree)):
        out = tmp_path / recipe
        done(
            "train",
            "--data",
            data,
            "--model",
            "resnet18",
            "--recipe",
            recipe,
            "--image-size",
            "32",
            "--steps",
            "2",
            "--batch-size",
            "64",
            "--device",
            "cpu",
            "--out",
            out,
        )
        record = read_record(out / "record.jsonl")
        assert record[-1]["status"] == "done"
        assert record[-1]["steps"] == 2
        assert record[0]["config"]["recipe"]["name"] == recipe
        assert len(load_model(out / "model.safetensors")[1].classes) == CLASSES
        evaluation = json.loads(done("evaluate", out, "--protocol", "ten-crop", "--device", "cpu", "--json"))
        assert evaluation["num_samples"] == VAL
        assert 95 <= evaluation["top1_error_pct"] <= 100
