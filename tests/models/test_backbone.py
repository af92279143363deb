"""The network as a backbone under the heads of a detector and a segmentation network, on generated images."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ModelConfig, Preprocessing
from resnetlab.models.model_card import ModelCard
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.resnet import ResNet

NARROW: dict[str, Any] = {"stage_blocks": (1, 1, 1, 1), "stage_channels": (4, 8, 12, 16)}
BACKBONES: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "A": {"shortcut": "pad"},
    "B": {"shortcut": "project"},
    "C": {"shortcut": "project_all"},
    "bottleneck A": {"block": "bottleneck", "shortcut": "pad"},
    "bottleneck v1": {"block": "bottleneck", "bottleneck_stride": "1x1"},
    "plain bottleneck": {"block": "bottleneck", "shortcut": "none"},
    "no norm": {"norm": "none"},
    "cifar": {"stem": "cifar", "stage_blocks": (1, 2, 1), "stage_channels": (4, 6, 8)},
    "cifar C bottleneck": {"stem": "cifar", "block": "bottleneck", "shortcut": "project_all"},
}
ODD = (75, 98)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def backbone(seed=0, **changes):
    return ResNet(ModelConfig(**(NARROW | changes)), torch.Generator().manual_seed(seed))


def shapes(count, height, width, seed=0):
    """Return images of bright squares on noise, the class of each pixel, and boxes (left, top, right, bottom)."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 3, height, width, generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.long)
    boxes = torch.zeros(count, 4)
    for i in range(count):
        side = int(torch.randint(24, 40, (), generator=generator))
        top = int(torch.randint(height - side, (), generator=generator))
        left = int(torch.randint(width - side, (), generator=generator))
        images[i, :, top : top + side, left : left + side] += 2
        masks[i, top : top + side, left : left + side] = 1
        boxes[i] = torch.tensor([left, top, left + side, top + side])
    return images, masks, boxes


class Pyramid(nn.Module):
    """Lateral 1x1 convolutions, enlarged and summed from coarse to fine (FPN): maps of `width` channels."""

    def __init__(self, model, names, width=8):
        super().__init__()
        self.model = model
        self.lateral = nn.ModuleDict({name: nn.Conv2d(model.feature_channels[name], width, 1) for name in names})

    def forward(self, images):
        maps, summed = self.model.features(images), {}
        above = None
        for name in reversed(list(self.lateral)):
            x = self.lateral[name](maps[name])
            above = x if above is None else x + F.interpolate(above, x.shape[-2:])
            summed[name] = above
        return dict(reversed(summed.items()))


class Detector(nn.Module):
    """FCOS: at every position of every level, a class score and the distances to the four sides of a box."""

    def __init__(self, model, names, num_classes=2):
        super().__init__()
        self.pyramid = Pyramid(model, names)
        self.score = nn.Conv2d(8, num_classes, 3, padding=1)
        self.distance = nn.Conv2d(8, 4, 3, padding=1)
        self.strides = model.feature_strides

    def forward(self, images):
        maps = self.pyramid(images).items()
        return {name: (self.score(x), self.strides[name] * F.softplus(self.distance(x))) for name, x in maps}


class Segmenter(nn.Module):
    """FCN: the finest sum is classified and enlarged to the image."""

    def __init__(self, model, names, num_classes=2):
        super().__init__()
        self.pyramid = Pyramid(model, names)
        self.classify = nn.Conv2d(8, num_classes, 1)

    def forward(self, images):
        finest = next(iter(self.pyramid(images).values()))
        return F.interpolate(self.classify(finest), images.shape[-2:], mode="bilinear")


def positions(height, width, stride):
    """Return the pixel at the centre of each position of a map: with padding k // 2, it is stride * i."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return stride * x.float(), stride * y.float()


def detection_loss(levels, boxes, strides):
    """Every position inside a box belongs to its object; distances are learnt there, in units of the stride."""
    total = torch.zeros(())
    for name, (scores, distances) in levels.items():
        height, width = scores.shape[-2:]
        x, y = positions(height, width, strides[name])
        left, top, right, bottom = (side.view(-1, 1, 1) for side in boxes.unbind(1))
        target = torch.stack([x - left, y - top, right - x, bottom - y], 1)
        inside = target.amin(1) > 0
        total = total + F.cross_entropy(scores, inside.long())
        off = (distances - target).abs().mean(1) / strides[name]
        total = total + 0.1 * (off * inside).sum() / inside.sum().clamp(min=1)
    return total


def losses(network, loss, steps=15):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    values = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    return values


@pytest.mark.parametrize("name", BACKBONES)
def test_channels_and_strides_are_those_of_the_maps(name):
    """Strides are measured: an image shifted by one stride shifts the map by one position."""
    model = backbone(**BACKBONES[name]).eval()
    image = torch.randn(1, 3, 352, 352, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = model.features(image[..., :320, :320])
        for key, stride in model.feature_strides.items():
            moved = model.features(image[..., stride : 320 + stride, stride : 320 + stride])[key]
            at = 160 // stride  # its receptive field, up to 195 pixels, is inside the image
            assert maps[key].shape[1] == model.feature_channels[key]
            torch.testing.assert_close(moved[..., at, at], maps[key][..., at + 1, at + 1], atol=1e-5, rtol=1e-4)
            assert (moved[..., at, at] - maps[key][..., at, at]).abs().max() > 0.01
    assert list(maps) == list(model.feature_channels) == list(model.feature_strides)


@pytest.mark.parametrize("name", BACKBONES)
def test_no_stage_overwrites_the_map_of_an_earlier_one(name):
    model = backbone(**BACKBONES[name]).train()
    outputs = {}

    def store(key):
        return lambda _module, _inputs, output: outputs.update({key: output.detach().clone()})

    model.maxpool.register_forward_hook(store("stem"))
    for key, stage in model.stages.items():
        stage.register_forward_hook(store(key))
    images = torch.randn(2, 3, *ODD)
    maps = model.features(images)
    assert list(maps) == list(outputs)
    assert all(torch.equal(maps[key], outputs[key]) for key in maps)


def test_stages_by_name():
    model = backbone(seed=3).eval()
    maps = model.features(torch.randn(2, 3, *ODD))
    assert torch.equal(model.stages["stage3"](maps["stage2"]), maps["stage3"])
    assert list(model.stages) == ["stage1", "stage2", "stage3", "stage4"]
    with pytest.raises(KeyError):
        model.stages["stage5"]


@pytest.mark.parametrize("size", [(96, 128), ODD, (33, 17), (65, 31)])
@pytest.mark.parametrize("name", ["B", "plain bottleneck", "cifar"])
def test_heads_fit_images_of_any_size(name, size):
    model = backbone(**BACKBONES[name]).train()
    names = list(model.stages)[-3:]
    levels = Detector(model, names, num_classes=5)(torch.randn(2, 3, *size))
    assert list(levels) == names
    for level, (scores, distances) in levels.items():
        sides = [-(-side // model.feature_strides[level]) for side in size]
        assert scores.shape == (2, 5, *sides)
        assert distances.shape == (2, 4, *sides)
        assert bool((distances > 0).all())
    assert Segmenter(model, model.feature_channels, num_classes=3)(torch.randn(2, 3, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("plain", "B", "cifar C bottleneck") else pytest.mark.slow)
        for name in BACKBONES
    ],
)
def test_a_detector_trains_the_whole_backbone(name):
    model = backbone(**BACKBONES[name]).train()
    detector = Detector(model, list(model.stages)[-3:])
    images, _, boxes = shapes(4, *ODD)
    before = copy.deepcopy(model.state_dict())
    history = losses(detector, lambda: detection_loss(detector(images), boxes, model.feature_strides))
    assert history[-1] < 0.6 * history[0], history
    assert_all_learnt(model, before)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_segmentation_network_trains_the_whole_backbone(name):
    model = backbone(**BACKBONES[name]).train()
    network = Segmenter(model, model.feature_channels)
    images, masks, _ = shapes(4, *ODD)
    before = copy.deepcopy(model.state_dict())
    history = losses(network, lambda: F.cross_entropy(network(images), masks))
    share = masks.float().mean()
    assert history[-1] < F.binary_cross_entropy(share, share), history  # the loss of the best constant prediction
    assert_all_learnt(model, before)


def assert_all_learnt(model, before):
    """Assert that every parameter but the head's has a gradient and changed, and that BN's statistics changed."""
    for key, parameter in model.named_parameters():
        if key.startswith("fc."):
            assert parameter.grad is None, key
        else:
            assert parameter.grad is not None, key
            assert parameter.grad.any(), key
            assert not torch.equal(parameter, before[key]), key
    assert all(not torch.equal(buffer, before[key]) for key, buffer in model.named_buffers())


def test_a_detector_finds_boxes_with_the_strides():
    """The best position of each image, converted to pixels with `feature_strides`, covers the object."""
    model = backbone(stage_channels=(8, 16, 16, 16)).train()
    detector = Detector(model, ["stage2", "stage3", "stage4"])
    images, _, boxes = shapes(8, 96, 96)
    losses(detector, lambda: detection_loss(detector(images), boxes, model.feature_strides), steps=60)
    with torch.no_grad():
        scores, distances = detector(images)["stage2"]
    x, y = positions(12, 12, 8)
    best = scores.softmax(1)[:, 1].flatten(1).argmax(1)
    centre = torch.stack([x.flatten()[best], y.flatten()[best]], 1)
    left, top, right, bottom = distances.flatten(2)[torch.arange(8), :, best].unbind(1)
    found = torch.stack([centre[:, 0] - left, centre[:, 1] - top, centre[:, 0] + right, centre[:, 1] + bottom], 1)
    assert box_iou(found, boxes).min() > 0.5


def box_iou(a, b):
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    return overlap / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap)


@pytest.mark.parametrize("name", ["B", "plain", "cifar C bottleneck"])
def test_activation_checkpointing_changes_nothing_for_a_head(name):
    """`features` stores its maps with and without `activation_checkpointing`; logits of the step may be recomputed."""
    images, masks, _ = shapes(3, *ODD)

    def results(activation_checkpointing):
        torch.manual_seed(0)
        model = backbone(**BACKBONES[name]).train()
        model.activation_checkpointing = activation_checkpointing
        network = Segmenter(model, model.stages)
        loss = F.cross_entropy(network(images), masks) + model(images).square().mean()
        loss.backward()
        return {"loss": loss.detach(), **{key: p.grad for key, p in network.named_parameters()}, **network.state_dict()}

    stored, recomputed = results(False), results(True)
    assert all(torch.equal(stored[key], recomputed[key]) for key in stored)


def test_frozen_stages_do_not_change():
    """Fine-tuning of detectors: stem and first stage frozen, all BN in evaluation mode."""
    model = backbone()
    for module in (model.conv1, model.bn1, model.stages["stage1"]):
        module.requires_grad_(False)
    network = Segmenter(model, model.stages)
    network.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images, masks, _ = shapes(4, *ODD)
    before = copy.deepcopy(model.state_dict())
    history = losses(network, lambda: F.cross_entropy(network(images), masks))
    assert history[-1] < 0.7 * history[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    frozen = ("conv1.", "bn1.", "layer1.", "fc.")
    assert changed == {key for key, _ in model.named_parameters() if not key.startswith(frozen)}


@pytest.mark.parametrize(("name", "size"), [("B", ODD), ("bottleneck A", (64, 64)), ("cifar", (32, 32))])
def test_the_logits_of_a_model_file_follow_from_its_maps(tmp_path, name, size):
    model = backbone(num_classes=2, **BACKBONES[name]).train()
    images, masks, _ = shapes(4, *ODD)
    losses(model, lambda: F.cross_entropy(model(images), masks[:, 40, 40]), steps=5)
    card = ModelCard(model.config, ("none", "square"), Preprocessing(64, (0.0,) * 3, (1.0,) * 3))
    save_model(tmp_path / "model.safetensors", model, card)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    batch = torch.randn(3, 3, *size)
    with torch.no_grad():
        *_, last = loaded.features(batch).values()
        logits = loaded.fc(last.mean((2, 3)))
        torch.testing.assert_close(logits, loaded(batch))
        torch.testing.assert_close(logits, model.eval()(batch))
