"""Model files: round trip, and errors that name the file."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from resnetlab.config import Preprocessing
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import ModelCard, ModelFileError, load_model, save_model
from resnetlab.models.zoo import build_model


@pytest.fixture
def saved(tmp_path):
    model = build_model("resnet8", 3, in_channels=1).eval()
    for _ in range(2):  # so that running statistics are not the initial ones
        model.train()(torch.rand(4, 1, 8, 8))
    card = ModelCard(
        model.config,
        ("ant", "bée", "蜂"),
        Preprocessing(8, (0.3,), (0.4,)),
        provenance={"seed": 1},
        error={"test_error_pct": 2.5},
    )
    save_model(tmp_path / "model.safetensors", model.eval(), card)
    return tmp_path / "model.safetensors", model, card


def test_a_model_file_is_read_as_written(saved):
    path, model, card = saved
    loaded, read = load_model(path)
    assert read == card
    assert not loaded.training
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    loaded(images).sum().backward()  # it can be trained further


def test_channels_last_weights_are_saved_whole(tmp_path, saved):
    _, model, card = saved
    save_model(str(tmp_path / "b.safetensors"), model.to(memory_format=torch.channels_last), card)
    assert torch.equal(
        load_model(tmp_path / "b.safetensors")[0].get_parameter("conv1.weight"), model.get_parameter("conv1.weight")
    )


@pytest.mark.parametrize("blocks", [(10**9, 1, 1), (1,) * 60])
def test_a_card_with_more_blocks_than_tensors_builds_no_network(tmp_path, saved, monkeypatch, blocks):
    monkeypatch.setattr("resnetlab.models.model_file.ResNet", pytest.fail)
    _, model, card = saved
    config = dataclasses.replace(card.model, stage_blocks=blocks, stage_channels=(4,) * len(blocks))
    save_model(tmp_path / "b.safetensors", model, dataclasses.replace(card, model=config))
    with pytest.raises(
        ModelFileError, match=r"do not fit the network of its model card \([\d,]+ blocks, \d+ tensors\)"
    ):
        load_model(tmp_path / "b.safetensors")


def test_other_files_are_refused(tmp_path, saved):
    path, _, _ = saved
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in {
        "foreign": "a safetensors file without resnetlab's metadata",
        "cut": "cannot be read as safetensors",
        "text": "cannot be read as safetensors",
        "missing": "no such model file",
    }.items():
        with pytest.raises(ModelFileError, match=f"{name}.safetensors: .*{message}"):
            load_model(tmp_path / f"{name}.safetensors")


def test_a_run_directory_stands_for_its_model_file(tmp_path, saved):
    path, model, card = saved
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelFileError, match="a folder without"):
        load_model(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(path.read_bytes())
    assert torch.equal(
        load_model(tmp_path / "run")[0].get_parameter("conv1.weight"), model.get_parameter("conv1.weight")
    )
    assert read_card(tmp_path / "run") == card
    (tmp_path / "a.th").write_bytes(b"PK")
    with pytest.raises(ModelFileError, match="resnetlab inspect"):
        read_card(tmp_path / "a.th")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=99), "newer resnetlab"),
        (lambda content: content["model"].update(num_classes=4), "do not fit"),
        (lambda content: content.update(model={"stage_blocks": [0]}), "its model card cannot be read"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, saved, change, message):
    from safetensors import safe_open

    path, _, _ = saved
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["resnetlab"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(content)
    save_file(tensors, tmp_path / "changed.safetensors", {"resnetlab": json.dumps(content)})
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "changed.safetensors")
