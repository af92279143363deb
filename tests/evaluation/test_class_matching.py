"""Classes are matched by name, WordNet IDs too; data that lack classes, and advice that the command can follow."""

import json
from pathlib import Path

import pytest
import torch

from helpers.images import write_tree
from helpers.small_network import CLASSES, COLOUR, model_file
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig
from resnetlab.evaluation.class_matching import match_classes
from resnetlab.evaluation.evaluator import open_members
from resnetlab.evaluation.lesions.lesion_models import open_networks
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.literature.class_names import imagenet_classes, published_classes
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model

NAMES = published_classes("imagenet")


def match(model_classes, data_classes, **options):
    return match_classes(model_classes, data_classes, model_name="net", data_name="data", **options).tolist()


def test_all_wordnet_ids():
    assert match(NAMES, tuple(imagenet_classes())) == list(range(1000))


def test_a_few_of_them():
    assert match(NAMES, ("n02123045", "n01440764"), allow_missing=True) == [281, 0]
    with pytest.raises(ConfigError, match="evaluate on the others with --allow-missing-classes"):
        match(NAMES, ("n02123045", "n01440764"))


def test_networks_whose_own_names_are_ids_are_matched_by_them():
    assert match(("n02123045", "n01440764"), ("n01440764", "n02123045")) == [1, 0]


def test_other_ids_and_names_stay():
    with pytest.raises(ConfigError, match="only data has n99999999"):
        match(NAMES, ("n99999999",), allow_missing=True)
    assert match(("tench", "tabby"), ("tabby", "tench")) == [1, 0]


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("network") / "net.safetensors")


@pytest.mark.parametrize("classes", [CLASSES[1:2], CLASSES[:3]])
def test_data_that_lack_classes(network, classes, tmp_path, capsys):
    """Even all but one."""
    data = str(write_tree(tmp_path / "some", dict.fromkeys(classes, 3), side=32))
    call = ["evaluate", str(network), "--data", data, "--json"]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "only net.safetensors has" in error
    assert "--allow-missing-classes" in error
    assert main([*call, "--allow-missing-classes"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["num_samples"] == 3 * len(classes)
    assert sum(map(sum, output["confusion"])) == 3 * len(classes)
    (member,), images = open_networks([network], DataConfig(data), EvaluationOptions())  # have no such option
    assert images.num_available == 3 * len(classes)
    assert {CLASSES[label] for label in member.labels} == set(classes)


def test_networks_of_other_classes_get_advice_on_networks(network, tmp_path):
    data = DataConfig(str(write_tree(tmp_path / "some", dict.fromkeys(CLASSES[:3], 3), side=32)))
    few = build_model("resnet8", 3, generator=torch.Generator().manual_seed(0))
    save_model(tmp_path / "few.safetensors", few, ModelCard(few.config, CLASSES[:3], COLOUR))
    options = EvaluationOptions(protocol="ensemble", allow_missing_classes=True)
    files = [network, tmp_path / "few.safetensors"]
    for ordered in (files, files[::-1]):
        with pytest.raises(ConfigError, match=r"only net.safetensors has .* – give networks of the same classes$"):
            open_members(ordered, data, options)
