"""The tolerance lets rounding through and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_network import COLOUR, network
from resnetlab.export.verify import BATCHES, ExportMismatchError, build_verification_set, compare_logits
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine, has_bf16
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats.onnx_graph import onnx_model
from resnetlab.inference.probe_images import probe_photographs
from resnetlab.models.fuse_bn import fuse_bn


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def asked(model):
    return build_verification_set(model, COLOUR, probe_photographs(COLOUR, 7))


def test_the_folded_network_agrees(model, asked):
    agreement = compare_logits(asked, TorchEngine(fuse_bn(model), COLOUR).logits)
    assert 0 < agreement.max_difference == max(agreement.by_batch.values())
    assert agreement.tolerance is not None
    assert agreement.max_difference < agreement.tolerance / 20
    assert set(agreement.by_batch) == {"1", "7"}
    assert agreement.top1_agreement_pct == 100
    assert agreement.num_images == 14


def test_what_is_asked(asked):
    assert {len(batch) for batch in asked.views} == set(BATCHES)
    assert {len(batch) for batch, real in zip(asked.views, asked.real, strict=True) if real} == set(BATCHES)
    assert {len(batch) for batch, real in zip(asked.views, asked.real, strict=True) if not real} == set(BATCHES)


def test_any_number_of_pictures(model):
    for count, batches in ((1, 2), (8, 4), (14, 4)):
        found = build_verification_set(model, COLOUR, probe_photographs(COLOUR, count))
        assert sum(found.real) == batches
        assert found.num_images == count + 7


def wrong(model, change):
    other = fuse_bn(model)
    with torch.no_grad():
        change(other)
    return TorchEngine(other, COLOUR).logits


def scaled(parameter, factor):
    parameter.mul_(factor)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: scaled(net.layer2[0].conv1.weight, 1.001),
        lambda net: net.layer1[0].conv2.weight[0, 0].zero_(),
        lambda net: net.conv1.bias.copy_(net.conv1.bias.flip(0)),
        lambda net: net.fc.bias[2].add_(0.01),
    ],
)
def test_a_network_that_changed_is_caught(model, asked, change):
    with pytest.raises(ExportMismatchError, match=r"differ by up to .* at batch 1 and .* at batch 7; .* is allowed"):
        compare_logits(asked, wrong(model, change))


@pytest.mark.parametrize(
    "preprocessing",
    [
        replace(COLOUR, mean=COLOUR.mean[::-1]),  # blue, green, red
        replace(COLOUR, std=(0.23, 0.22, 0.221)),
        replace(COLOUR, mean=(0.4801, 0.46, 0.41)),
    ],
)
def test_pixels_seen_otherwise_are_caught(model, asked, preprocessing):
    with pytest.raises(ExportMismatchError):
        compare_logits(asked, TorchEngine(model, preprocessing).logits)


def test_a_wrong_fold_is_caught(asked):
    """With another epsilon, as frameworks differ in it; and with batch normalisation's shift forgotten."""
    other = network()
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(ExportMismatchError):
        compare_logits(asked, TorchEngine(fuse_bn(other), COLOUR).logits)
    other = network()
    other.get_buffer("bn1.running_mean").zero_()
    with pytest.raises(ExportMismatchError):
        compare_logits(asked, TorchEngine(fuse_bn(other), COLOUR).logits)


def test_a_batch_that_is_mixed_up_is_caught(model, asked):
    answers = TorchEngine(model, COLOUR).logits
    with pytest.raises(ExportMismatchError, match="up to 0 at batch 1 and"):
        compare_logits(asked, lambda views: answers(views)[::-1])


@pytest.mark.slow
def test_half_precision_is_caught(model, asked):
    if not has_bf16():
        pytest.skip("this processor has no bf16")
    graph = onnx_model(model, COLOUR).SerializeToString()
    engine = OpenVinoEngine(lambda: (graph, b""), "bf16", cores=1, callers=1)
    with pytest.raises(ExportMismatchError):
        compare_logits(asked, engine.logits)


def test_numbers_that_are_none(asked):
    for wrong in (np.nan, np.inf):
        for what in (asked, replace(asked, int8=asked.logits)):
            with pytest.raises(ExportMismatchError, match="differ by up to"):
                compare_logits(what, lambda views, wrong=wrong: np.full((len(views), 6), wrong, np.float32))
    broken = network()
    broken.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ExportMismatchError, match="not finite: its weights are broken"):
        build_verification_set(broken, COLOUR, probe_photographs(COLOUR, 1))


def test_another_shape(asked):
    with pytest.raises(ExportMismatchError, match=r"the shape \(1, 5\)"):
        compare_logits(asked, lambda views: np.zeros((len(views), 5), np.float32))


def test_int8_is_compared_with_int8(model, asked):
    """Of which every logit is rounded here; what is stored is how far that is from the network."""

    def coarse(views):
        return np.round(TorchEngine(model, COLOUR).logits(views))

    judged = replace(asked, int8=tuple(map(coarse, asked.views)))
    agreement = compare_logits(judged, lambda views: coarse(views) + 0.1)
    assert agreement.tolerance is None
    assert 0.5 < agreement.max_difference < 0.7
    with pytest.raises(ExportMismatchError):
        compare_logits(judged, lambda views: coarse(views)[:, ::-1])
