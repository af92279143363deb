"""`resnetlab evaluate` of a network that gives an image several labels: its text and its JSON."""

import json
from pathlib import Path

import pytest

from helpers.images import write_tree
from helpers.small_network import CLASSES, COLOUR, network
from resnetlab.cli.main import main
from resnetlab.models.model_card import MultiLabel
from resnetlab.models.model_file import ModelCard, save_model


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[Path, Path]:
    """Write a network and a table of labels; the last of its images cannot be decoded."""
    folder = tmp_path_factory.mktemp("labelled")
    model, card = network(), MultiLabel(thresholds=(0.5,) * len(CLASSES), split="val", num_images=4)
    save_model(folder / "net.safetensors", model, ModelCard(model.config, CLASSES, COLOUR, multi_label=card))
    write_tree(folder, {"images": 6}, side=32)
    (folder / "images" / "bad.png").write_bytes(b"no image")
    rows = [f"images/{number:03}.png,{name};cat" for number, name in enumerate(CLASSES)] + ["images/bad.png,f"]
    (folder / "labels.csv").write_text("\n".join(["file,labels", *rows]))
    return folder / "net.safetensors", folder / "labels.csv"


@pytest.mark.parametrize("bar", [False, True])
def test_json_is_on_standard_output_beside_a_progress_bar(labelled, bar, capsys, monkeypatch):
    """A progress bar on standard error takes over what is printed while it is shown."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1" if bar else "")
    model, table = map(str, labelled)
    assert main(["evaluate", model, "--data", table, "--on-bad-image", "skip", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["num_samples"], output["num_left_out"]) == (6, 1)
    assert (output["protocol"], output["temperature"]) == ("one crop of 32 pixels", [1.0])


def test_text_has_the_number_of_images_left_out(labelled, capsys):
    model, table = map(str, labelled)
    assert main(["evaluate", model, "--data", table, "--on-bad-image", "skip"]) == 0
    assert "left out, because they cannot be decoded: 1 images" in capsys.readouterr().out
