"""Order of layers and pairs of convolution and BN: from numbers, from names, from the file's order, or refused."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from helpers.public_resnets import Module, conv, randomise
from resnetlab.models.importing.import_weights import import_weights
from resnetlab.models.importing.state_dict_layers import find_blocks, is_registration_order, layers_of
from resnetlab.models.importing.unsupported import UnsupportedError
from resnetlab.models.zoo import build_model


class Block(Module):
    """A basic block; `names` and `order` are those of conv, norm, conv, norm at registration."""

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


class UncountedNames(Block):
    names = ("start", "norm_mid", "end", "norm_last")


class MatchingNames(Block):
    names = ("conv_start", "bn_start", "conv_end", "bn_end")


class NumberedPool(Block):
    """The pool has a number in the Sequential, and no weights."""

    def projection(self, inputs, outputs, stride):
        return nn.Sequential(conv(inputs, outputs, 1), nn.AvgPool2d(stride), nn.BatchNorm2d(outputs))


class HiddenPool(Block):
    """The names have no numbers, so the pool is invisible."""

    def projection(self, inputs, outputs, stride):
        return nn.Sequential(
            OrderedDict(pool=nn.AvgPool2d(stride), conv=conv(inputs, outputs, 1), bn=nn.BatchNorm2d(outputs))
        )


class NormFirst(Block):
    """Registration order of pre-activation."""

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


def save(path, net):
    torch.save(net.state_dict(), path) if path.suffix == ".pth" else save_file(net.state_dict(), path)
    return path


def relative_difference(original, model):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = original(images), model(images)
    return float((expected - found).abs().max() / expected.abs().max())


def assumed(path):
    return {item.subject: item.value for item in import_weights(path).assumptions}


CONSTANT = ((8, 1), (8, 1))


def test_sorted_keys_are_not_in_registration_order():
    keys = list(build_model("resnet8").state_dict())
    assert is_registration_order(keys)
    assert not is_registration_order(sorted(keys))
    without = [key for key in keys if key.endswith(("running_mean", "running_var")) or "conv" in key]
    assert is_registration_order(without)
    assert not is_registration_order(sorted(without))
    by_type = sorted(keys, key=lambda key: (not key.endswith("num_batches_tracked"), key))  # as in safetensors
    assert not is_registration_order(by_type)


@pytest.mark.parametrize("change", [sorted, lambda keys: [*keys[60:], *keys[:60]]], ids=["sorted", "turned"])
def test_blocks_are_in_the_order_of_their_numbers(tmp_path, change):
    net = randomise(Net(blocks=((8, 1),) * 12))
    state = net.state_dict()
    torch.save({key: state[key] for key in change(list(state))}, tmp_path / "a.pth")
    assert relative_difference(net, import_weights(tmp_path / "a.pth").model) < 1e-5


def test_names_without_numbers_stay_in_the_order_of_the_network():
    names = [f"{stage}.{number}" for stage in ("wide2a", "narrow", "wide2b") for number in (0, 10, 9)]
    shapes = {f"{name}.conv{number}.weight": (8, 8, 3, 3) for name in names for number in (1, 2)}
    found = list(find_blocks(layers_of(shapes, in_order=True)).blocks)
    assert found == [f"{stage}.{number}" for stage in ("wide2a", "wide2b", "narrow") for number in (0, 9, 10)]


@pytest.mark.parametrize("blocks", [CONSTANT, ((8, 1), (16, 2))])
def test_names_without_numbers_are_paired_by_the_order_of_the_network(tmp_path, blocks):
    net = randomise(Net(UncountedNames, blocks))
    assert relative_difference(net, import_weights(save(tmp_path / "a.pth", net)).model) < 1e-5
    with pytest.raises(UnsupportedError, match=r"layers\.0\.end, layers\.0\.start differ by more than a number"):
        import_weights(save(tmp_path / "a.safetensors", net))


def test_a_common_word_pairs_a_convolution_and_its_norm(tmp_path):
    net = randomise(Net(MatchingNames))
    assert relative_difference(net, import_weights(save(tmp_path / "a.pth", net)).model) < 1e-5
    shuffled = dict(reversed(net.state_dict().items()))
    torch.save(shuffled, tmp_path / "b.pth")
    with pytest.raises(UnsupportedError, match="whose layers have no known order"):
        import_weights(tmp_path / "b.pth")


def test_pre_activation_of_constant_width_is_detected_by_the_order(tmp_path):
    """Every tensor fits both networks; only the order of registration differs."""
    net = randomise(Net(NormFirst, CONSTANT))
    with pytest.raises(UnsupportedError, match="with pre-activation"):
        import_weights(save(tmp_path / "a.pth", net))
    assert assumed(save(tmp_path / "a.safetensors", net))["BN"] == "after each convolution"
    widening = randomise(Net())
    assert "BN" not in assumed(save(tmp_path / "b.safetensors", widening))


def test_a_norm_behind_the_blocks_is_refused(tmp_path):
    net = randomise(Net(blocks=CONSTANT, norm_last=True))
    with pytest.raises(UnsupportedError, match="norm is registered after them"):
        import_weights(save(tmp_path / "a.pth", net))


def test_projections_where_channels_do_not_change_may_stride(tmp_path):
    inside = randomise(Net(blocks=((8, 1), (8, 1), (8, 2), (16, 2), (16, 1))))
    with pytest.raises(UnsupportedError, match=r"layers\.2 projects within a stage"):
        import_weights(save(tmp_path / "a.pth", inside))
    first = randomise(Net(blocks=((8, 2), (8, 1), (16, 2))))
    assert assumed(save(tmp_path / "b.pth", first))["stride of layers.0.shortcut.0"] == "1"
    usual = assumed(save(tmp_path / "c.pth", randomise(Net())))
    assert not any(subject.startswith("stride of layer") for subject in usual)
    everywhere = build_model("resnet14", shortcut="project_all")
    torch.save(everywhere.state_dict(), tmp_path / "d.pth")
    assert not any(subject.startswith("stride of layer") for subject in assumed(tmp_path / "d.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pools_in_projections_are_refused_or_listed_as_an_assumption(tmp_path, suffix):
    net = randomise(Net(NumberedPool))
    with pytest.raises(UnsupportedError, match=r"shortcut\.2 does not stand directly behind layers\.2\.shortcut\.0"):
        import_weights(save(tmp_path / f"a{suffix}", net))
    net = randomise(Net(HiddenPool))
    assumptions = assumed(save(tmp_path / f"b{suffix}", net))
    assert assumptions["stride of projections"] == "in the 1x1 convolution, no average"
