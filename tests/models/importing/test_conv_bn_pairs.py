"""In which order layers are computed, and which belong together: told by number, by name, by order, or not at all."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from helpers import public_resnets as originals
from helpers.public_resnets import Module, conv
from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.importing.state_dict_layers import find_blocks, is_registration_order, layers_of
from resnetlab.models.importing.unsupported import UnsupportedError
from resnetlab.models.zoo import build_model


class Block(Module):
    """Basic; the layers are called as `names` says, in the order it says: of conv, norm, conv, norm."""

    names = ("conv1", "bn1", "conv2", "bn2")
    order = (0, 1, 2, 3)

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        layers = [conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)]
        layers += [conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)]
        for at in self.order:
            self.add_module(self.names[at], layers[at])
        if stride != 1 or inputs != outputs:
            self.shortcut = self.projection(inputs, outputs, stride)

    def projection(self, inputs, outputs, stride) -> nn.Module:
        return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        first, norm, second, last = (self.get_submodule(name) for name in self.names)
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        return F.relu(last(second(F.relu(norm(first(x))))) + shortcut)


class Irregular(Block):
    names = ("start", "norm_mid", "end", "norm_last")


class Alike(Block):
    names = ("conv_start", "bn_start", "conv_end", "bn_end")


class PooledBehind(Block):
    """The pool has a place in the Sequential, and no weights."""

    def projection(self, inputs, outputs, stride):
        return nn.Sequential(conv(inputs, outputs, 1), nn.AvgPool2d(stride), nn.BatchNorm2d(outputs))


class PooledUnseen(Block):
    """Names do not count, so nothing tells of the pool."""

    def projection(self, inputs, outputs, stride):
        return nn.Sequential(
            OrderedDict(pool=nn.AvgPool2d(stride), conv=conv(inputs, outputs, 1), bn=nn.BatchNorm2d(outputs))
        )


class NormFirst(Block):
    """As pre-activation is registered."""

    order = (1, 0, 3, 2)


class Net(Module):
    def __init__(self, block=Block, blocks=((8, 1), (8, 1), (16, 2), (16, 1)), norm_last=False):
        super().__init__()
        self.conv1 = conv(3, 8, 3)
        if not norm_last:
            self.norm = nn.BatchNorm2d(8)
        widths = [8, *(width for width, _ in blocks)]
        self.layers = nn.Sequential(*(block(before, *one) for before, one in zip(widths, blocks, strict=False)))
        if norm_last:
            self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(widths[-1], 4)

    def forward(self, x):
        return self.linear(self.layers(F.relu(self.norm(self.conv1(x)))).mean((2, 3)))


def saved(path, net):
    torch.save(net.state_dict(), path) if path.suffix == ".pth" else save_file(net.state_dict(), path)
    return path


def apart(original, model):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = original(images), model(images)
    return float((expected - found).abs().max() / expected.abs().max())


def assumed(path):
    return {one.what: one.taken for one in import_weights(path).unknown}


CONSTANT = ((8, 1), (8, 1))


def test_keys_that_somebody_sorted_are_not_in_order():
    keys = list(build_model("resnet8").state_dict())
    assert is_registration_order(keys)
    assert not is_registration_order(sorted(keys))
    without = [key for key in keys if key.endswith(("running_mean", "running_var")) or "conv" in key]
    assert is_registration_order(without)
    assert not is_registration_order(sorted(without))
    by_type = sorted(keys, key=lambda key: (not key.endswith("num_batches_tracked"), key))  # as safetensors does
    assert not is_registration_order(by_type)


@pytest.mark.parametrize("change", [sorted, lambda keys: [*keys[60:], *keys[:60]]], ids=["sorted", "turned"])
def test_blocks_stand_in_the_order_of_their_numbers(tmp_path, change):
    net = originals.randomise(Net(blocks=((8, 1),) * 12))
    state = net.state_dict()
    torch.save({key: state[key] for key in change(list(state))}, tmp_path / "a.pth")
    assert apart(net, import_weights(tmp_path / "a.pth").model) < 1e-5


def test_names_that_do_not_count_stay_in_the_order_of_the_network():
    names = [f"{stage}.{number}" for stage in ("wide2a", "narrow", "wide2b") for number in (0, 10, 9)]
    shapes = {f"{name}.conv{number}.weight": (8, 8, 3, 3) for name in names for number in (1, 2)}
    found = list(find_blocks(layers_of(shapes, in_order=True)).blocks)
    assert found == [f"{stage}.{number}" for stage in ("wide2a", "wide2b", "narrow") for number in (0, 9, 10)]


@pytest.mark.parametrize("blocks", [CONSTANT, ((8, 1), (16, 2))])
def test_names_without_numbers_are_paired_by_the_order_of_the_network(tmp_path, blocks):
    net = originals.randomise(Net(Irregular, blocks))
    assert apart(net, import_weights(saved(tmp_path / "a.pth", net)).model) < 1e-5
    with pytest.raises(UnsupportedError, match=r"layers\.0\.end, layers\.0\.start differ by more than a number"):
        import_weights(saved(tmp_path / "a.safetensors", net))


def test_the_same_word_puts_a_convolution_and_its_norm_together(tmp_path):
    net = originals.randomise(Net(Alike))
    assert apart(net, import_weights(saved(tmp_path / "a.pth", net)).model) < 1e-5
    shuffled = dict(reversed(net.state_dict().items()))
    torch.save(shuffled, tmp_path / "b.pth")
    with pytest.raises(UnsupportedError, match="nothing tells what comes first"):
        import_weights(tmp_path / "b.pth")


def test_pre_activation_of_constant_width_is_told_by_the_order(tmp_path):
    """Every tensor fits both; the order of registration does not."""
    net = originals.randomise(Net(NormFirst, CONSTANT))
    with pytest.raises(UnsupportedError, match="with pre-activation"):
        import_weights(saved(tmp_path / "a.pth", net))
    assert assumed(saved(tmp_path / "a.safetensors", net))["BN"] == "after each convolution"
    widening = originals.randomise(Net())
    assert "BN" not in assumed(saved(tmp_path / "b.safetensors", widening))


def test_a_norm_behind_the_blocks_is_not_that_of_the_stem(tmp_path):
    net = originals.randomise(Net(blocks=CONSTANT, norm_last=True))
    with pytest.raises(UnsupportedError, match="norm is registered after them"):
        import_weights(saved(tmp_path / "a.pth", net))


def test_projections_where_channels_do_not_change_may_stride(tmp_path):
    inside = originals.randomise(Net(blocks=((8, 1), (8, 1), (8, 2), (16, 2), (16, 1))))
    with pytest.raises(UnsupportedError, match=r"layers\.2 projects within a stage"):
        import_weights(saved(tmp_path / "a.pth", inside))
    first = originals.randomise(Net(blocks=((8, 2), (8, 1), (16, 2))))
    assert assumed(saved(tmp_path / "b.pth", first))["stride of layers.0.shortcut.0"] == "1"
    usual = assumed(saved(tmp_path / "c.pth", originals.randomise(Net())))
    assert not any(what.startswith("stride of") for what in usual)
    everywhere = build_model("resnet14", shortcut="project_all")
    torch.save(everywhere.state_dict(), tmp_path / "d.pth")
    assert not any(what.startswith("stride of") for what in assumed(tmp_path / "d.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pools_in_projections_are_seen_or_said_to_be_unseen(tmp_path, suffix):
    net = originals.randomise(Net(PooledBehind))
    with pytest.raises(UnsupportedError, match=r"shortcut\.2 does not stand directly behind layers\.2\.shortcut\.0"):
        import_weights(saved(tmp_path / f"a{suffix}", net))
    net = originals.randomise(Net(PooledUnseen))
    said = assumed(saved(tmp_path / f"b{suffix}", net))
    assert said["projection where it halves"] == "its 1x1 convolution strides, no average"
