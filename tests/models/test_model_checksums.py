"""The checksums of a model file: every changed bit is noticed and the changed part is named."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from resnetlab.config import ConfigError, Preprocessing
from resnetlab.models.importing.weights_file import read_weights
from resnetlab.models.model_card import ModelCard, ModelFileError, file_has_checksums, read_card
from resnetlab.models.model_checksums import CHECKSUMS_KEY
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.zoo import build_model


@pytest.fixture
def path(tmp_path):
    model = build_model("resnet8", 2).eval()
    card = ModelCard(model.config, ("cät", "dog"), Preprocessing(8, (0.3,) * 3, (0.4,) * 3))
    save_model(tmp_path / "m.safetensors", model, card)
    return tmp_path / "m.safetensors"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def flip(data, position, bit):
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_each_flipped_bit_is_noticed(path):
    data, rng = path.read_bytes(), random.Random(0)
    start = 8 + int.from_bytes(data[:8], "little")
    positions = [*range(8), *rng.sample(range(8, start), 52), *rng.sample(range(start, len(data)), 40)]
    for position in positions:
        path.write_bytes(flip(data, position, rng.randrange(8)))
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            load_model(path)
        with pytest.raises(ConfigError, match=r"m\.safetensors"):
            read_weights(path)  # as `inspect` reads a file of another project
    path.write_bytes(data)
    load_model(path)


def test_each_bit_of_the_keys_of_the_metadata_is_noticed(path):
    data = path.read_bytes()
    for key in (b'"resnetlab":', b'"resnetlab_seal":', b'"__metadata__":'):
        for position in range(data.index(key), data.index(key) + len(key)):
            for bit in range(8):
                path.write_bytes(flip(data, position, bit))
                with pytest.raises(ModelFileError):
                    load_model(path)
                with pytest.raises(ModelFileError):
                    read_weights(path)


def test_the_changed_part_is_named(path):
    data, metadata = path.read_bytes(), metadata_of(path)
    path.write_bytes(flip(data, len(data) - 2, 6))
    with pytest.raises(ModelFileError, match=r"its weights are not as written \(SHA-256 differs\) \(card intact\)"):
        load_model(path)
    assert read_card(path).classes == ("cät", "dog")  # reads no weights
    path.write_bytes(data.replace(b"0.3", b"0.8"))
    with pytest.raises(ModelFileError, match=r"its card is not as written \(SHA-256 differs\); copy"):
        read_card(path)
    with pytest.raises(ModelFileError, match=r"its card is not as written .*weights intact.*; copy"):
        load_model(path)
    path.write_bytes(flip(data.replace(b"0.3", b"0.8"), len(data) - 2, 6))
    with pytest.raises(ModelFileError, match="its weights and card are not as written"):
        load_model(path)
    path.write_bytes(data)
    tensors = load_file(path)
    tensors["conv1.weight"], tensors["layer1.0.conv1.weight"] = torch.zeros(2), torch.zeros(3)
    save_file(tensors, path, metadata)
    with pytest.raises(ModelFileError, match="its weights are not as written"):
        load_model(path)


def test_a_rewritten_file_with_the_same_content_is_intact(path):
    save_file(load_file(path), path, metadata_of(path))  # another order of keys, maybe
    load_model(path)
    assert file_has_checksums(path)


def test_an_older_file_has_no_checksums(path):
    metadata = {key: value for key, value in metadata_of(path).items() if key != CHECKSUMS_KEY}
    save_file(load_file(path), path, metadata)
    assert load_model(path)[1].classes == ("cät", "dog")
    assert not file_has_checksums(path)


def test_checksums_of_another_kind_are_refused(path):
    save_file(load_file(path), path, {**metadata_of(path), CHECKSUMS_KEY: json.dumps({"weights": "0"})})
    with pytest.raises(ModelFileError, match="its checksums are not as written"):
        load_model(path)


def test_the_same_model_gives_the_same_bytes(path, tmp_path):
    save_model(tmp_path / "again.safetensors", *load_model(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
