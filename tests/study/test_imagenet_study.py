"""A study of ImageNet networks on a folder of photographs, beside Table 2 of the paper."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for shade, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 100, (64, 64, 3), dtype=np.uint8) + np.uint8(100 * shade)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


@pytest.mark.slow
def test_plain_and_residual_networks_of_table_2(photos, tmp_path, without_figures):
    """One step each. Networks of the other family cannot join the study."""
    study = ("study", "--data", photos, "--arms", "plain", "residual", "--seeds", "1", "--steps", "1")
    study += ("--set", "keep=last", "batch_size=4", "--no-identity-init", "--out", tmp_path / "study")
    status, out, stderr = without_figures(*study, "--family", "imagenet", "--recipe", "scratch")
    assert status == 0, stderr
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("plain-", "residual-"))}
    published = {"plain-18": "27.94", "residual-18": "27.88", "plain-34": "28.54", "residual-34": "25.03"}
    assert {network: cells[-1] for network, cells in lines.items()} == published
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    params = {row["network"]: row["params"] for row in results["table"]}
    assert params["plain-18"] == params["residual-18"] < params["plain-34"] == params["residual-34"]
    assert len(results["tables_2"][0]["rows"]) == 4
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Table 2" in page
    assert "compare the changes, not the errors" in page

    status, _, stderr = without_figures(*study, "--depths", "8")
    assert status == 2
    assert "holds a study with other settings (other networks)" in stderr
