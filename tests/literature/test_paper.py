"""Compare the published results with the tables as printed, and our networks' sizes with the paper's."""

import dataclasses
import json
from collections import Counter

import pytest

from resnetlab.config import Recipe
from resnetlab.literature.paper import PUBLISHED, find_result
from resnetlab.literature.protocol import BEST_ON_TEST, Protocol
from resnetlab.literature.reproductions import REPRODUCTIONS, independent_results
from resnetlab.models.cost import cost
from resnetlab.models.zoo import build_model, model_config
from resnetlab.study.reports.run_protocol import COVERED_FIELDS
from resnetlab.training.recipes import RECIPES

ALL_RESULTS = PUBLISHED + REPRODUCTIONS
RESNETS_OF_TABLE_6 = {
    "test_error_pct": {
        "resnet20": 8.75,
        "resnet32": 7.51,
        "resnet44": 7.17,
        "resnet56": 6.97,
        "resnet110": 6.61,
        "resnet1202": 7.93,
    },
    "best_test_error_pct": {"resnet110": 6.43},
    "params": {
        "resnet20": 0.27e6,
        "resnet32": 0.46e6,
        "resnet44": 0.66e6,
        "resnet56": 0.85e6,
        "resnet110": 1.7e6,
        "resnet1202": 19.4e6,
    },
}


def value(table, network, quantity, column=None):
    (cell,) = [
        cell
        for cell in PUBLISHED
        if (cell.table, cell.network, cell.quantity) == (table, network, quantity) and column in (None, cell.column)
    ]
    return cell.value


def test_no_cell_is_listed_twice():
    keys = Counter((cell.source, cell.table, cell.column, cell.network, cell.quantity) for cell in ALL_RESULTS)
    assert max(keys.values()) == 1


def test_every_table_is_complete():
    assert Counter(cell.table for cell in PUBLISHED) == {
        "Table 1": 7,
        "Table 2": 4,
        "Table 3": 19,
        "Table 4": 18,
        "Table 5": 6,
        "Table 6": 23,
        "Table 7": 4,
        "Table 8": 4,
        "Figure 6": 1,
    }


@pytest.mark.parametrize(
    ("table", "network", "quantity", "expected"),
    [
        ("Table 1", "resnet152-v1", "macs", 11.3e9),
        ("Table 2", "plain18", "top1_error_pct", 27.94),
        ("Table 2", "resnet34-A", "top1_error_pct", 25.03),
        ("Table 3", "plain34", "top5_error_pct", 10.02),
        ("Table 3", "VGG-16", "top5_error_pct", 9.33),
        ("Table 3", "resnet34-C", "top1_error_pct", 24.19),
        ("Table 3", "resnet50-v1", "top5_error_pct", 6.71),
        ("Table 4", "resnet34-B", "top1_error_pct", 21.84),
        ("Table 4", "BN-inception", "top5_error_pct", 5.81),
        ("Table 4", "resnet152-v1", "top5_error_pct", 4.49),
        ("Table 5", "ResNet (ILSVRC'15)", "top5_error_pct", 3.57),
        ("Table 6", "Maxout", "test_error_pct", 9.38),
        ("Table 8", "ResNet-101", "map50_pct", 48.4),
    ],
)
def test_values(table, network, quantity, expected):
    assert value(table, network, quantity) == expected


def test_detection_on_two_test_sets():
    assert value("Table 7", "ResNet-101", "map_pct", "07+12") == 76.4
    assert value("Table 7", "VGG-16", "map_pct", "07++12") == 70.4


@pytest.mark.parametrize("quantity", RESNETS_OF_TABLE_6)
def test_table_6_has_every_resnet(quantity):
    found = {
        cell.network: cell.value
        for cell in PUBLISHED
        if cell.table == "Table 6" and cell.network.startswith("resnet") and cell.quantity == quantity
    }
    assert found == RESNETS_OF_TABLE_6[quantity]


def test_find_result():
    cell = find_result("resnet110", "test_error_pct")
    assert cell is not None
    assert (cell.value, cell.std, cell.num_runs, cell.reference) == (6.61, 0.16, 5, "Table 6")
    assert find_result("resnet110", "top1_error_pct") is None
    assert find_result("plain20", "test_error_pct") is None
    plain = find_result("plain110", "test_error_pct")
    assert plain is not None
    assert (plain.value, plain.is_lower_bound, plain.reference) == (60.0, True, "Figure 6")


def test_reproductions():
    found = independent_results("plain56", "test_error_pct")
    assert [(cell.source.split("/")[0], cell.value, cell.std, cell.num_runs) for cell in found] == [
        ("nabla0001", 12.95, 0.22, 5),
        ("techxzen", 15.39, None, 1),
        ("fish145", 14.74, None, 1),
    ]
    assert [cell.value for cell in independent_results("resnet152-v1", "top5_error_pct")] == [6.7]
    assert [cell.value for cell in independent_results("resnet34", "top1_error_pct")] == [26.73]
    assert [cell.value for cell in independent_results("resnet50", "top1_error_pct")] == [24.01, 21.94, 19.142]


@pytest.mark.parametrize(("name", "source"), [("timm-a3", "huggingface"), ("torchvision-v2", "pytorch/vision")])
def test_a_recipe_is_that_of_its_published_result(name, source):
    (cell,) = [cell for cell in independent_results("resnet50", "top1_error_pct") if cell.source.startswith(source)]
    protocol, recipe = cell.protocol, RECIPES[name]
    assert (protocol.batch_size, protocol.lr) == (recipe.batch_size, recipe.lr)
    assert protocol.weight_decay == recipe.weight_decay
    assert ((0, protocol.image_size),) == recipe.train_sizes
    extras = {field: json.loads(value) for field, _, value in (extra.partition("=") for extra in protocol.extras)}
    names = {item.name for item in dataclasses.fields(Recipe)} - COVERED_FIELDS - {"train_sizes"}  # its image size
    changed = {name for name in names if getattr(recipe, name) != getattr(Recipe(), name)}
    assert extras == {name: getattr(recipe, name) for name in changed}


def test_the_zoo_has_every_network():
    """Names of other authors' networks start with a capital letter; a final capital letter names the shortcut."""
    names = {cell.network for cell in ALL_RESULTS if cell.network[0].islower()}
    assert len(names) == 25
    for name in names:
        base, _, option = name.partition("-")
        assert model_config(base if option in ("A", "B", "C") else name).name


def test_protocols_of_single_values_differ_from_the_papers():
    """They tested the best epoch on test, or do not state the epoch."""
    paper = find_result("resnet20", "test_error_pct")
    assert paper is not None
    single = [cell for cell in REPRODUCTIONS if cell.protocol.data == "CIFAR-10" and cell.std is None]
    assert len(single) == 18
    for cell in single:
        assert cell.protocol.tested_epoch in (BEST_ON_TEST, None)
        assert cell.protocol != paper.protocol


def test_descriptions_are_not_compared():
    assert Protocol("one description", "CIFAR-10", steps=5) == Protocol("another description", "CIFAR-10", steps=5)
    assert Protocol("one description", "CIFAR-10", steps=5) != Protocol("one description", "CIFAR-10", steps=6)


@pytest.mark.parametrize("network", ["resnet20", "resnet56", "resnet110"])
def test_parameter_counts_match_the_paper(network):
    published = find_result(network, "params")
    assert published is not None
    assert cost(build_model(network), 32).params == pytest.approx(published.value, rel=0.03)
