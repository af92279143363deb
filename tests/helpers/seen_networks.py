"""Networks whose batch normalisations have seen images, in any wiring and preprocessing, and such images."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.public_resnets import randomise
from resnetlab.models.blocks import PadShortcut
from resnetlab.models.zoo import build_model

GAINS = (1.0, 0.8, 0.5)
LEVELS = (0.55, 0.45, 0.3)


def colour_images(number=192, side=16, seed=0):
    """Smooth images with noise, uint8 (number, 3, side, side); channels differ in mean, contrast and correlation."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(number, 3, 5, 5, generator=generator)
    coarse[:, 1] = 0.7 * coarse[:, 0] + 0.5 * coarse[:, 1]
    smooth = F.interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.randn(number, 3, side, side, generator=generator)
    gains, levels = (torch.tensor(values).view(1, 3, 1, 1) for values in (GAINS, LEVELS))
    pixels = levels + 0.22 * gains * smooth + 0.04 * noise
    return (pixels.clamp(0, 1) * 255).round().byte()


class SplitPad(nn.Module):
    """Option A as in akamaster's repository: half of the zero channels stand in front."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        front = self.extra // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, self.extra - front))


def seen_network(images, *, mean, std, bgr=False, split=False, pool=None, seed=0, **config):
    """Return a random network whose statistics are averages over batches of images, as its training stores them."""
    name = config.pop("name", "resnet8")
    config = {"stage_channels": (8, 16, 24), "in_channels": images.shape[1], **config}
    model = randomise(build_model(name, 10, **config), seed)
    for block in [block for stage in model.stages.values() for block in stage]:
        if split and isinstance(block.downsample, PadShortcut):
            block.downsample = SplitPad(block.downsample.extra_channels)
    if pool is not None:
        model.maxpool = pool
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    shape = (1, -1, 1, 1)
    pixels = images.float() / 255
    pixels = (pixels.flip(1) if bgr else pixels) - torch.tensor(mean).view(shape)
    with torch.no_grad():
        for batch in (pixels / torch.tensor(std).view(shape)).split(64):
            model.train()(batch)
    return model.eval()
