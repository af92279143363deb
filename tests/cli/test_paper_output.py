"""`models --paper`: published errors of the paper and of reproductions."""

import json

import pytest

from resnetlab.cli.main import main
from resnetlab.literature.paper import find_result


def printed(capsys, *words):
    assert main(["models", "--paper", *words]) == 0
    return capsys.readouterr().out


def test_the_table_of_depth_comes_first(capsys):
    text = printed(capsys)
    lines = text.splitlines()
    assert [lines[row].split() for row in (4, 5)] == [["18", "27.94", "27.88"], ["34", "28.54", "25.03"]]
    assert "0.60 points worse and the residual one 2.85 points better" in " ".join(text.split())
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("network", "quantity", "row"),
    [
        ("resnet110", "best_test_error_pct", ["resnet110", "6.61", "6.43", "(3)"]),
        ("VGG (v5)", "top1_error_pct", ["VGG", "(v5)", "24.40", "7.10", "(2)"]),
        ("plain110", "test_error_pct", ["plain110", ">", "60.00"]),
    ],
)
def test_every_number_stands_in_its_column(capsys, network, quantity, row):
    assert find_result(network, quantity) is not None
    assert row in [line.split() for line in printed(capsys).splitlines()]


def test_one_network_with_any_shortcut(capsys):
    found = json.loads(printed(capsys, "resnet34", "--json"))["published"]
    assert {cell["network"] for cell in found} == {"resnet34", "resnet34-A", "resnet34-B", "resnet34-C"}
    assert {cell["source"] for cell in found} == {"paper", "facebook/fb.resnet.torch"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet33"], "no error of 'resnet33' is published; did you mean resnet34?"),
        (["--pixels", "64"], "--pixels changes nothing that --paper prints; leave it out"),
        (
            ["--pixels", "64", "--batch-size", "8"],
            "--batch-size, --pixels change nothing that --paper prints; leave them",
        ),
    ],
)
def test_wrong_calls(capsys, words, message):
    assert main(["models", "--paper", *words]) == 2
    assert message in capsys.readouterr().err
