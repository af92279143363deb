"""The order of an epoch that takes every class equally often."""

import pytest
import torch

from resnetlab.config import ConfigError, Preprocessing, Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.loader import train_batches
from resnetlab.data.sampler import balanced_order, epoch_order, train_order
from resnetlab.system.process_group import ProcessGroup

COUNTS = (60, 25, 0, 7, 2)
"""Images of each class; one has none."""
LABELS = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))
PREPROCESSING = Preprocessing(image_size=1, mean=(0.0,), std=(1.0,))


def split():
    """Images whose only pixel is the number of the sample."""
    return Split(torch.arange(len(LABELS), dtype=torch.uint8)[:, None, None, None], LABELS)


def test_each_round_has_one_image_of_each_class():
    order = balanced_order(LABELS, 1, 3)
    assert order.shape == (94,)
    rounds = LABELS[order][:92].view(23, 4)
    assert rounds.sort(1).values.tolist() == [[0, 1, 3, 4]] * 23
    assert len({tuple(row) for row in rounds.tolist()}) > 5  # in another order each time
    assert len(set(LABELS[order][92:].tolist())) == 2


def test_the_order_is_a_function_of_seed_and_epoch():
    order = balanced_order(LABELS, 1, 3)
    assert torch.equal(order, balanced_order(LABELS, 1, 3))
    assert not torch.equal(order, balanced_order(LABELS, 1, 4))
    assert not torch.equal(order, balanced_order(LABELS, 2, 3))


def test_every_image_of_a_class_comes_before_one_comes_again():
    drawn = torch.cat([balanced_order(LABELS, 0, epoch) for epoch in range(30)])
    uses = torch.bincount(drawn, minlength=len(LABELS))
    for label in (0, 1, 3, 4):
        of_class = uses[label == LABELS]
        # A round that an epoch cuts short may skip an image once.
        assert of_class.max() - of_class.min() <= 30
        assert of_class.sum() == pytest.approx(30 * 94 / 4, rel=0.02)
    first = balanced_order(LABELS, 0, 0)
    large, small = first[LABELS[first] == 0], first[LABELS[first] == 4]
    assert len(large.unique()) == len(large)  # 23 or 24 of 60
    assert torch.bincount(small - 92).tolist() in ([12, 12], [12, 11], [11, 12])
    second = balanced_order(LABELS, 0, 1)
    assert not set(large.tolist()) & set(second[LABELS[second] == 0].tolist())  # these waited


def test_any_number_of_processes_gets_the_same_images():
    recipe = Recipe(batch_size=8, balanced_order=True)

    def seen(rank, size, first_step=0):
        group = ProcessGroup(rank, size)
        batches = train_batches(
            split(), PREPROCESSING, recipe, seed=5, epoch=2, first_step=first_step, process_group=group
        )
        return [(images.flatten() * 255).round().int().tolist() for images, _ in batches]

    alone = seen(0, 1)
    assert [sample for batch in alone for sample in batch] == balanced_order(LABELS, 5, 2)[:88].tolist()
    shared = [first + second for first, second in zip(seen(0, 2), seen(1, 2), strict=True)]
    assert shared == alone
    assert seen(0, 1, first_step=4) == alone[4:]


def test_the_usual_order_is_unchanged():
    assert torch.equal(epoch_order(split(), 0, 0).sort().values, torch.arange(94))
    usual, balanced = (train_order(split(), Recipe(balanced_order=on), seed=5, epoch=2) for on in (False, True))
    assert torch.equal(usual, epoch_order(split(), 5, 2))
    assert torch.equal(balanced, balanced_order(LABELS, 5, 2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"class_weights": "balanced"}, "balanced_order and class_weights balanced both correct unequal classes"),
        ({"flip": True, "alternate_flip": True}, "alternate_flip needs each image once an epoch"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        Recipe(balanced_order=True, **fields)
