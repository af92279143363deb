"""The tolerance accepts rounding errors and rejects every other difference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.small_network import COLOUR, network
from resnetlab.export.verify import BATCH_SIZES, ExportMismatchError, build_verification_set, compare_logits
from resnetlab.inference.engines.openvino_runtime import OpenVinoEngine, has_bf16
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats.onnx_graph import onnx_model
from resnetlab.inference.probe_images import probe_photographs
from resnetlab.models.fuse_bn import fuse_bn


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def verification_set(model):
    return build_verification_set(model, COLOUR, probe_photographs(COLOUR, 7))


def test_the_folded_network_agrees(model, verification_set):
    agreement = compare_logits(verification_set, TorchEngine(fuse_bn(model), COLOUR).logits)
    assert 0 < agreement.max_difference == max(agreement.by_batch.values())
    assert agreement.tolerance is not None
    assert agreement.max_difference < agreement.tolerance / 20
    assert set(agreement.by_batch) == {"1", "7"}
    assert agreement.top1_agreement_pct == 100
    assert agreement.num_images == 14


def test_batches_of_the_verification_set(verification_set):
    assert {len(batch) for batch in verification_set.batches} == set(BATCH_SIZES)
    assert {
        len(batch) for batch, real in zip(verification_set.batches, verification_set.is_real, strict=True) if real
    } == set(BATCH_SIZES)
    assert {
        len(batch) for batch, real in zip(verification_set.batches, verification_set.is_real, strict=True) if not real
    } == set(BATCH_SIZES)


def test_any_number_of_images(model):
    for count, batches in ((1, 2), (8, 4), (14, 4)):
        built = build_verification_set(model, COLOUR, probe_photographs(COLOUR, count))
        assert sum(built.is_real) == batches
        assert built.num_images == count + 7


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
def test_a_changed_network_is_rejected(model, verification_set, change):
    with pytest.raises(ExportMismatchError, match=r"differ .* by up to .* at batch 1 and .* at batch 7; .* is allowed"):
        compare_logits(verification_set, wrong(model, change))


@pytest.mark.parametrize(
    "preprocessing",
    [
        replace(COLOUR, mean=COLOUR.mean[::-1]),  # blue, green, red
        replace(COLOUR, std=(0.23, 0.22, 0.221)),
        replace(COLOUR, mean=(0.4801, 0.46, 0.41)),
    ],
)
def test_another_preprocessing_is_rejected(model, verification_set, preprocessing):
    with pytest.raises(ExportMismatchError):
        compare_logits(verification_set, TorchEngine(model, preprocessing).logits)


def test_a_wrong_fold_is_rejected(verification_set):
    """Another epsilon, as in other frameworks; and a missing running mean."""
    other = network()
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(ExportMismatchError):
        compare_logits(verification_set, TorchEngine(fuse_bn(other), COLOUR).logits)
    other = network()
    other.get_buffer("bn1.running_mean").zero_()
    with pytest.raises(ExportMismatchError):
        compare_logits(verification_set, TorchEngine(fuse_bn(other), COLOUR).logits)


def test_a_permuted_batch_is_rejected(model, verification_set):
    logits = TorchEngine(model, COLOUR).logits
    with pytest.raises(ExportMismatchError, match="up to 0 at batch 1 and"):
        compare_logits(verification_set, lambda images: logits(images)[::-1])


@pytest.mark.slow
def test_bf16_is_rejected(model, verification_set):
    if not has_bf16():
        pytest.skip("this processor has no bf16")
    graph = onnx_model(model, COLOUR).SerializeToString()
    engine = OpenVinoEngine(lambda: (graph, b""), "bf16", cores=1, callers=1)
    with pytest.raises(ExportMismatchError):
        compare_logits(verification_set, engine.logits)


def test_logits_that_are_not_finite_are_rejected(verification_set):
    for wrong in (np.nan, np.inf):
        for reference in (verification_set, replace(verification_set, int8_logits=verification_set.logits)):
            with pytest.raises(ExportMismatchError, match="differ from the network's by up to"):
                compare_logits(reference, lambda images, wrong=wrong: np.full((len(images), 6), wrong, np.float32))
    broken = network()
    broken.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ExportMismatchError, match="not finite: its weights are broken"):
        build_verification_set(broken, COLOUR, probe_photographs(COLOUR, 1))


def test_logits_of_another_shape_are_rejected(verification_set):
    with pytest.raises(ExportMismatchError, match=r"the shape \(1, 5\)"):
        compare_logits(verification_set, lambda images: np.zeros((len(images), 5), np.float32))


def test_int8_is_compared_with_the_int8_graph(model, verification_set):
    """The int8 graph rounds every logit here; the reported difference is to the source network."""

    def rounded(images):
        return np.round(TorchEngine(model, COLOUR).logits(images))

    reference = replace(verification_set, int8_logits=tuple(map(rounded, verification_set.batches)))
    agreement = compare_logits(reference, lambda images: rounded(images) + 0.1)
    assert agreement.tolerance is None
    assert 0.5 < agreement.max_difference < 0.7
    with pytest.raises(ExportMismatchError):
        compare_logits(reference, lambda images: rounded(images)[:, ::-1])
