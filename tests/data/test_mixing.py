"""Mixup, CutMix, repeated augmentation and random erasing: formulas, and equality for any processes and start."""

import dataclasses

import pytest
import scipy.stats
import torch

from helpers.images import encode, random_images
from resnetlab.config import ConfigError, Preprocessing, Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.loader import train_batches
from resnetlab.data.mixing import Mix, cut_box, draw_mix, mix_pairs, mix_params
from resnetlab.data.random_erasing import NUM_ERASING_PARAMS, erased_boxes, random_erasing
from resnetlab.data.sampler import train_order
from resnetlab.system.process_group import ProcessGroup

GENERATOR = torch.Generator().manual_seed(0)
SPLIT = Split(
    torch.randint(0, 256, (76, 3, 12, 12), generator=GENERATOR, dtype=torch.uint8),
    torch.randint(0, 5, (76,), generator=GENERATOR),
)
PLAIN = Preprocessing(12, (0.5,) * 3, (0.25,) * 3)
BOTH = Recipe(batch_size=12, mixup=0.2, cutmix=1.0)
ALL = dataclasses.replace(
    BOTH, trivial_augment=True, random_erasing=0.5, augment_repeats=3, crop_padding=2, flip=True, jitter=0.2
)


def batches(recipe, *, split=SPLIT, **options):
    return list(train_batches(split, PLAIN, recipe, seed=3, epoch=1, num_classes=5, **options))


def mixes_of(recipe, count=4000):
    return [draw_mix(recipe, row, 5) for row in mix_params(0, 0, count)]


def test_shares_have_the_beta_distribution_and_both_kinds_come_equally_often():
    mixes = mixes_of(BOTH)
    by_kind = {kind: [mix.share for mix in mixes if mix.kind == kind] for kind in ("mixup", "cutmix")}
    assert len(by_kind["mixup"]) == pytest.approx(2000, abs=120)
    for kind, alpha in (("mixup", 0.2), ("cutmix", 1.0)):
        assert scipy.stats.kstest(by_kind[kind], scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    for fields, kind in (({"mixup": 0.0}, "cutmix"), ({"cutmix": 0.0}, "mixup")):
        assert {mix.kind for mix in mixes_of(dataclasses.replace(BOTH, **fields), 50)} == {kind}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mix", [Mix("mixup", 0.7, 3), Mix("cutmix", 0.4, 3, (0.2, 0.9))])
def test_pairs_are_mixed_as_the_formulas_say(mix, layout):
    images = torch.rand(6, 2, 10, 8, generator=GENERATOR).to(memory_format=layout)
    labels = torch.tensor([0, 1, 2, 0, 1, 1])
    mixed, shares = mix_pairs(images.clone(memory_format=layout), labels, slice(4, 10), own=slice(4, 10), mix=mix)
    for i in range(6):
        j = i + 1 if i % 2 == 0 else i - 1
        expected, share = images[i].clone(), mix.share
        if mix.kind == "mixup":
            expected = share * images[i] + (1 - share) * images[j]
        else:  # sides of sqrt(1 - share), centre at pixel 2 and 7, cut at the border
            height, width = int(10 * 0.6**0.5), int(8 * 0.6**0.5)
            rows, columns = (
                slice(max(0, 2 - height // 2), 2 + height // 2),
                slice(7 - width // 2, min(8, 7 + width // 2)),
            )
            expected[:, rows, columns] = images[j][:, rows, columns]
            share = 1 - expected[0, rows, columns].numel() / 80
        torch.testing.assert_close(mixed[i], expected)
        target = torch.zeros(3)
        target[labels[i]] += share
        target[labels[j]] += 1 - share
        torch.testing.assert_close(shares[i], target)
    assert mixed.is_contiguous(memory_format=layout)


def test_an_image_without_its_partner_stays_as_it_is():
    images, labels = torch.rand(3, 1, 4, 4, generator=GENERATOR), torch.tensor([2, 0, 1])
    at = torch.tensor([0, 2, 3])  # 1 could not be decoded
    mixed, shares = mix_pairs(images.clone(), labels, at, own=slice(0, 4), mix=Mix("mixup", 0.25, 3))
    assert torch.equal(mixed[0], images[0])
    assert shares[0].tolist() == [0, 0, 1]
    torch.testing.assert_close(mixed[1], 0.25 * images[1] + 0.75 * images[2])


def test_the_box_may_be_nothing_or_the_whole_image():
    assert cut_box(8, 8, Mix("cutmix", 1.0, 3, (0.5, 0.5))) == (4, 4, 4, 4)
    assert cut_box(8, 8, Mix("cutmix", 0.0, 3, (0.5, 0.5))) == (0, 8, 0, 8)


@pytest.mark.parametrize("recipe", [BOTH, ALL])
@pytest.mark.parametrize(("processes", "micro_batches"), [(2, 1), (4, 1), (2, 2), (1, 4)])
def test_processes_together_see_the_batch_of_one(recipe, processes, micro_batches):
    """With four shares of a batch of 12, a share begins inside a pair."""
    whole = batches(recipe)
    parts = [
        batches(recipe, process_group=ProcessGroup(rank, processes), micro_batches=micro_batches)
        for rank in range(processes)
    ]
    for step, (images, labels) in enumerate(whole):
        own = [parts[rank][step * micro_batches + m] for m in range(micro_batches) for rank in range(processes)]
        assert torch.equal(torch.cat([part for part, _ in own]), images)
        assert torch.equal(torch.cat([part for _, part in own]), labels)
    torch.testing.assert_close(torch.cat([labels for _, labels in whole]).sum(1), torch.ones(72))


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (4, 0), (4, 2)])
def test_encoded_images_some_of_which_cannot_be_decoded(processes, workers):
    """Positions are those of the epoch, so that an image keeps its partner when others of the batch are missing."""
    storage = [encode(image, "PNG") for image in random_images(76, 20)]
    for bad in (3, 40, 41):
        storage[bad] = b""
    sizes, view = torch.tensor([(20, 20)] * 76), EvalView(12, 12, 0.875)
    images = EncodedImages(storage, [str(i) for i in range(76)], sizes, view=view, skip_bad=True)
    split = Split(images, SPLIT.labels)
    recipe = dataclasses.replace(ALL, crop="resized", augment_repeats=1)
    whole = batches(recipe, split=split)
    assert sum(len(labels) for _, labels in whole) < 72
    parts = [
        batches(recipe, split=split, workers=workers, process_group=ProcessGroup(rank, processes))
        for rank in range(processes)
    ]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)


def test_an_epoch_continues_at_any_batch_and_others_differ():
    whole, rest = batches(ALL), batches(ALL, first_step=4)
    assert all(torch.equal(a, b) for pair in zip(whole[4:], rest, strict=True) for a, b in zip(*pair, strict=True))
    other = next(train_batches(SPLIT, PLAIN, ALL, seed=3, epoch=2, num_classes=5))
    assert not torch.equal(other[0], whole[0][0])


def test_each_addition_leaves_the_random_numbers_of_the_others():
    plain = torch.cat([images for images, _ in batches(Recipe(batch_size=12, crop_padding=2, flip=True))])
    erased = torch.cat([x for x, _ in batches(Recipe(batch_size=12, crop_padding=2, flip=True, random_erasing=0.5))])
    same = (plain == erased).flatten(1).all(1)
    assert 0.2 < same.float().mean() < 0.8
    assert ((erased == plain) | (erased == 0)).all()


def test_repeats_are_different_views_of_an_image_and_never_a_pair():
    recipe = Recipe(batch_size=12, augment_repeats=3, crop_padding=3)
    order = train_order(SPLIT, recipe, seed=3, epoch=1).view(6, 12)
    assert len(order.unique()) == 24
    images = torch.cat([x for x, _ in batches(recipe)]).reshape(6, 12, -1)
    for step, row in enumerate(order.tolist()):
        assert sorted(row.count(sample) for sample in set(row)) == [3] * 4
        assert all(row[i] != row[i + 1] for i in range(0, 12, 2))
        assert len(images[step].unique(dim=0)) > 8
    uneven = train_order(SPLIT, dataclasses.replace(recipe, batch_size=10), seed=3, epoch=1).view(7, 10)
    assert all(len(row.unique()) == 4 for row in uneven)
    assert all(row[i] != row[i + 1] for row in uneven for i in range(0, 10, 2))


def test_erased_boxes_have_the_published_areas_and_shapes():
    params = torch.rand(2000, NUM_ERASING_PARAMS, generator=GENERATOR)
    top, left, bottom, right = erased_boxes((64, 48), params).unbind(1)
    assert ((top >= 0) & (left >= 0) & (bottom <= 64) & (right <= 48) & (bottom > top) & (right > left)).all()
    area = (bottom - top) * (right - left) / (64 * 48)
    assert area.min() > 0.01
    assert area.max() < 0.35
    assert area.mean().item() == pytest.approx(0.175, abs=0.02)
    images = torch.rand(2000, 1, 16, 16, generator=GENERATOR) + 1
    erased = random_erasing(images, 0.1, params)
    changed = (erased != images).flatten(1).any(1)
    assert torch.equal(changed, params[:, 0] < 0.1)
    box = erased_boxes((16, 16), params)
    for index in changed.nonzero().flatten()[:20].tolist():
        top, left, bottom, right = box[index].tolist()
        assert (erased[index, :, top:bottom, left:right] == 0).all()
        assert (erased[index] == 0).sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"batch_size": 15, "mixup": 0.2},
            "mixup and cutmix join the images of a batch in pairs; give an even batch_size",
        ),
        ({"mixup": -1.0}, "mixup must be at least 0, not -1.0"),
        ({"batch_size": 16, "augment_repeats": 9}, "augment_repeats must be at most half of batch_size, 8, not 9"),
        ({"flip": True, "alternate_flip": True, "augment_repeats": 2}, "alternate_flip needs each image once an epoch"),
    ],
)
def test_invalid_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**fields)


def test_mixing_needs_the_number_of_classes():
    with pytest.raises(ValueError, match="needs num_classes"):
        next(train_batches(SPLIT, PLAIN, BOTH, seed=0, epoch=0))
