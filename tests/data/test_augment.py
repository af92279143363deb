import torch

from resnetlab.config import Preprocessing
from resnetlab.data.augment import normalise, random_crop, random_flip


def test_normalise_is_per_channel():
    images = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    seen = normalise(images, Preprocessing(1, (0.5, 0.25), (0.5, 0.25)))
    assert seen.flatten().tolist() == [-1.0, 3.0]


def test_crop_is_a_window_of_the_padded_image():
    images = torch.rand(64, 3, 5, 6)
    draws = torch.rand(64, 2)
    cropped = random_crop(images, 2, draws)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i in range(64):
        top, left = int(draws[i, 0] * 5), int(draws[i, 1] * 5)
        assert torch.equal(cropped[i], padded[i, :, top : top + 5, left : left + 6])


def test_crop_reaches_every_place_and_the_middle_is_the_image():
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(9, 1, 3, 3)
    places = torch.cartesian_prod(torch.tensor([0.0, 0.4, 0.99]), torch.tensor([0.0, 0.4, 0.99]))
    cropped = random_crop(images, 1, places)
    assert len({tuple(x.flatten().tolist()) for x in cropped}) == 9
    assert torch.equal(cropped[4], images[4])


def test_flip_mirrors_those_below_one_half():
    images = torch.rand(3, 2, 4, 4)
    flipped = random_flip(images, torch.tensor([0.0, 0.5, 0.49]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])
    assert torch.equal(flipped[2], images[2].flip(-1))
