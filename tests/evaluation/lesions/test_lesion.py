"""Lesions: removed and reordered blocks against networks built by hand, paths against autograd's whole gradient."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.evaluation.lesions.lesion import (
    LesionOptions,
    draw_orders,
    draw_removals,
    error_pct,
    kendall_tau,
    measure_lesions,
)
from resnetlab.evaluation.lesions.path_gradients import (
    PathGradients,
    input_gradients,
    measure_path_gradients,
    path_shares,
    random_paths,
)
from resnetlab.models.block_edits import (
    block_shapes,
    list_blocks,
    removed_blocks,
    reordered_blocks,
    replaced_residuals,
)
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.blocks import Block, PadShortcut
from resnetlab.models.resnet import ResNet
from resnetlab.models.zoo import build_model

CONFIG = ModelConfig("tiny", (2, 2), (6, 8), stem="cifar", shortcut="pad", num_classes=5, in_channels=2)
OPTIONS = LesionOptions(most_removed=3, most_swaps=2, repeats=2, paths=4)


def network(**changes: Any):
    """Return a network in evaluation mode whose BN statistics are not initial."""
    rng = torch.Generator().manual_seed(1)
    model = build_model(dataclasses.replace(CONFIG, **changes), generator=rng)
    model.train()(torch.randn(32, 2, 8, 8, generator=rng))
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(12, 2, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels():
    return torch.arange(12) % 5


def composed(model, images, replacement):
    """Return logits with blocks replaced by functions of their input: position → function."""
    x = model.stem(images)
    for position, block in enumerate(list_blocks(model)):
        x = replacement.get(position, block)(x.clone())
    return model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("shortcut", ["none", "pad", "project", "project_all"])
def test_a_removed_block_leaves_its_shortcut(shortcut, images):
    model = network(shortcut=shortcut)
    shapes = block_shapes(model, images)
    assert [shape.keeps_shape for shape in shapes] == [True, True, False, True]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        whole = model(images)
        for position, block in enumerate(list_blocks(model)):
            shortcut_layer: Any = block.downsample
            if shortcut_layer is None:
                expected = (lambda x: x) if shapes[position].keeps_shape else PadShortcut(2, 2)
            else:
                expected = lambda x, layer=shortcut_layer: F.relu(layer(x))  # noqa: E731
            with removed_blocks(model, shapes, [position]):
                torch.testing.assert_close(model(images), composed(model, images, {position: expected}))
                assert not torch.equal(model(images), whole)
        assert torch.equal(model(images), whole)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("block", list(BLOCKS))
def test_every_registered_block_loses_f(block, images):
    """Without F of any block, no convolution of F matters."""
    try:
        model = network(block=block, norm="batch")
    except ConfigError:  # some blocks replace normalisation
        model = network(block=block, norm="none")
    shapes = block_shapes(model, images)
    with torch.no_grad(), removed_blocks(model, shapes, range(4)):
        changed = model(images)
        for conv, _ in list_blocks(model)[1].conv_layers():
            conv.weight.add_(1.0)
        assert torch.equal(model(images), changed)


def test_reordered_blocks(images):
    model = network()
    a, b, c, d = list_blocks(model)
    with torch.no_grad():
        whole = model(images)
        with reordered_blocks(model, [1, 0, 2, 3]):
            assert list_blocks(model) == [b, a, c, d]
            torch.testing.assert_close(model(images), composed(model, images, {}))
            assert not torch.equal(model(images), whole)
        assert torch.equal(model(images), whole)


def test_changes_end_with_an_error(images):
    model = network()
    keys = list(model.state_dict())
    with pytest.raises(KeyError), reordered_blocks(model, [1, 0, 2, 3]):
        raise KeyError
    with pytest.raises(KeyError), removed_blocks(model, block_shapes(model, images), [0]):
        raise KeyError
    assert list(model.state_dict()) == keys
    assert all("residual" not in vars(block) for block in list_blocks(model))


class Opaque(Block):
    """A block whose forward pass does not call `residual`."""

    num_convs, expansion = 1, 1

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.downsample = None

    def forward(self, x):
        return x


def test_a_block_without_residual_is_refused(images):
    model = network()
    model.stages["stage1"][0] = Opaque()
    with pytest.raises(ConfigError, match=r"Opaque.forward does not call `residual`"):
        block_shapes(model, images)


@pytest.mark.parametrize("shortcut", ["pad", "project"])
def test_the_gradients_of_all_paths_sum_to_the_gradient(shortcut, images, labels):
    """With the forward pass fixed, the backward pass is linear: 2^4 paths add up to autograd's gradient."""
    model = network(shortcut=shortcut)
    whole = input_gradients(model, images, labels)
    paths = [
        input_gradients(model, images, labels, through_branch=torch.tensor(path)[:, None].expand(-1, 12))
        for path in itertools.product([False, True], repeat=4)
    ]
    assert whole.abs().max() > 0
    torch.testing.assert_close(sum(paths), whole)
    assert not torch.allclose(paths[0], paths[-1])


def test_the_path_of_length_n_is_the_gradient_of_a_network_without_shortcut_gradients(images, labels):
    model = network()
    result = measure_path_gradients(model, images, labels, per_length=12)
    shortcuts: list[Any] = [block.downsample for block in list_blocks(model)]
    cut = [layer.register_forward_hook(lambda *args: args[-1].detach()) for layer in shortcuts]
    expected = input_gradients(model, images, labels).flatten(1).norm(dim=1).mean().item()
    for handle in cut:
        handle.remove()
    assert result.gradient_norm[4] == pytest.approx(expected, rel=1e-4)
    with replaced_residuals(list_blocks(model), lambda _block, original, x: original(x).detach()):
        expected = input_gradients(model, images, labels).flatten(1).norm(dim=1).mean().item()
    assert result.gradient_norm[0] == pytest.approx(expected, rel=1e-4)


def test_paths_follow_the_binomial_distribution():
    assert path_shares(4) == (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
    paths = random_paths(9, torch.arange(10).repeat(50), seed=0)
    assert paths.sum(0).tolist() == list(range(10)) * 50
    passed = paths.float().mean(1)  # every block is as likely as another
    assert (passed - 0.5).abs().max() < 0.1
    assert torch.equal(paths, random_paths(9, torch.arange(10).repeat(50), seed=0))
    assert not torch.equal(paths, random_paths(9, torch.arange(10).repeat(50), seed=1))


def test_gradient_shares(images, labels):
    result = measure_path_gradients(network(), images, labels, per_length=6)
    products = [norm * share for norm, share in zip(result.gradient_norm, result.path_share, strict=True)]
    assert result.gradient_share == pytest.approx([product / sum(products) for product in products])
    known = PathGradients(4, path_shares(4), (1.0,) * 5, (0.01, 0.5, 0.48, 0.01, 0.0))
    assert known.effective_range() == (1, 2)
    assert known.mean_length == pytest.approx(0.5 + 0.96 + 0.03)


def test_a_plain_network_has_one_path(images, labels):
    with pytest.raises(ConfigError, match="tiny is plain: its only path has all 4 blocks"):
        measure_path_gradients(network(shortcut="none"), images, labels)


def test_kendall_tau():
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 2, 3], [2, 0, 3, 1]):
        expected: Any = kendalltau(order, range(4))
        assert kendall_tau(order) == pytest.approx(expected.statistic)
    assert kendall_tau([0]) == 1


def test_draws(images):
    shapes = block_shapes(network(stage_blocks=(3, 3)), images)
    sets = draw_removals(shapes, OPTIONS)
    assert [len(chosen) for chosen in sets] == [1, 1, 2, 2, 3, 3]
    assert all(3 not in chosen for chosen in sets)  # the first block of stage 2 changes the shape
    orders = draw_orders(shapes, OPTIONS)
    assert [swaps for swaps, _ in orders] == [1, 1, 2, 2]
    assert all(sorted(order[:3]) == [0, 1, 2] and order[3] == 3 for _, order in orders)
    assert draw_removals(shapes, OPTIONS) == sets
    assert draw_removals(shapes, dataclasses.replace(OPTIONS, seed=1)) != sets
    assert draw_removals(shapes, LesionOptions(most_removed=9, repeats=1))[-1] == (0, 1, 2, 4, 5)


@pytest.mark.parametrize("shortcut", ["none", "pad"])
def test_measured_errors(shortcut, images):
    """Labels are the network's own predictions: it has no error whole, and some with changes."""
    model = network(shortcut=shortcut)
    with torch.no_grad():
        labels = model(images).argmax(1)
        stages = []
        result = measure_lesions(
            model.train(), images, labels, options=OPTIONS, on_progress=lambda stage, done, total: stages.append(stage)
        )
        assert model.training
        model.eval()
        with removed_blocks(model, block_shapes(model, images), [1]):
            expected = 100 * (model(images).argmax(1) != labels).float().mean().item()
    assert (result.error_pct, result.num_images, result.is_plain) == (0, 12, shortcut == "none")
    assert result.without_block[1].error_pct == pytest.approx(expected)
    assert [block.block for block in result.without_block] == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
    assert max(block.error_pct for block in result.without_block) > 0
    assert {len(removal.blocks) for removal in result.without_blocks} == {1, 2, 3}
    assert all(order.kendall_tau < 1 for order in result.reordered if order.num_swaps == 1)
    assert (result.paths is None) == (shortcut == "none")
    assert len(set(stages)) == (3 if shortcut == "none" else 4)


def test_logits_that_are_not_finite_are_wrong(images, labels):
    model = network()
    torch.nn.init.constant_(model.fc.weight, math.nan)
    assert error_pct(model, images, labels) == 100


def test_numbers_are_checked():
    for name in ("repeats", "most_removed", "most_swaps", "paths"):
        with pytest.raises(ConfigError, match=rf"{name.replace('_', '-')} must be at least \d, not -1"):
            LesionOptions(**{name: -1})
    assert isinstance(network(), ResNet)
