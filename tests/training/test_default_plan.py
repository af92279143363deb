"""Defaults for one's own images: network by image size, recipe by number, length and image size by time."""

import itertools

import pytest

from resnetlab.planning.image_survey import ImageSurvey
from resnetlab.training.default_plan import (
    LIMIT_S,
    MARGIN,
    SIZES,
    ImageTimes,
    Work,
    fit_length,
    network_for,
    recipe_for,
)

WORK = Work(num_train=320, num_val=40, num_evaluated=400, epochs=20, batch_size=16)


def survey(*sizes):
    return ImageSurvey(320, 40, 400, 400, 10, sizes)


@pytest.mark.parametrize(
    ("sizes", "networks"),
    [
        (((375, 500), (500, 375)), [("resnet18", 224), ("resnet50", 224)]),
        (((224, 224),), [("resnet18", 224), ("resnet50", 224)]),
        (((100, 120), (90, 90)), [("resnet18", 128), ("resnet50", 128)]),
        (((64, 64),), [("resnet20", 64)]),
        (((36, 32),), [("resnet20", 32)]),
        (((60, 50), (64, 50)), [("resnet20", 64)]),
        (((28, 28),), [("resnet20", 28)]),
    ],
)
def test_small_images_get_a_cifar_network_at_their_own_size(sizes, networks):
    found = network_for(survey(*sizes))
    assert [(network.model, network.image_size) for network in found] == networks
    assert all(network.weights for network in found)


def test_tiny_images_have_no_published_weights():
    (network,) = network_for(survey((8, 8)))
    assert (network.model, network.weights) == ("resnet20", None)


def test_more_images_need_fewer_epochs_and_larger_batches():
    for is_pretrained, name in ((True, "finetune"), (False, "scratch")):
        found = [recipe_for(number, is_pretrained=is_pretrained) for number in (400, 5_000, 50_000, 400_000)]
        assert {recipe for recipe, _ in found} == {name}
        for (_, few), (_, many) in itertools.pairwise(found):
            assert few["epochs"] >= many["epochs"]
            assert few["batch_size"] <= many["batch_size"]
    assert recipe_for(1_281_167, is_pretrained=False) == ("imagenet-90", {})
    assert recipe_for(5, is_pretrained=True)[1]["batch_size"] == 5
    assert "epochs" not in recipe_for(400, is_pretrained=True, steps_given=True)[1]


def times(train_s, decode_s=0.0, **more):
    return ImageTimes(224, train_s, 0.4 * train_s, decode_s, **more)


def test_a_run_within_an_hour_has_the_usual_length():
    length = fit_length(times(0.03), WORK, SIZES)
    assert (length.image_size, length.epochs, length.steps) == (224, 20, None)
    assert length.expected_s == pytest.approx(20 * (320 * 0.03 + 40 * 0.012) + 400 * 0.012)


def test_a_slow_machine_gets_fewer_epochs_then_smaller_images():
    slower = [fit_length(times(train_s), WORK, SIZES) for train_s in (0.5, 0.8, 1.3, 3.0)]
    assert [length.image_size for length in slower] == [224, 224, 192, 128]
    assert slower[0].epochs == 20
    assert slower[1].epochs in range(10, 20)
    assert all(length.expected_s <= LIMIT_S for length in slower)
    hopeless = fit_length(times(60.0), WORK, SIZES)
    assert (hopeless.image_size, hopeless.epochs) == (128, 10)
    assert hopeless.expected_s > LIMIT_S  # the caller warns


@pytest.mark.parametrize("minutes", [0.05, 0.2, 1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("decode_s", [0.0, 0.01])
@pytest.mark.parametrize("is_parallel", [False, True])
def test_minutes_are_used_and_not_exceeded(minutes, decode_s, is_parallel):
    measured = times(0.03, decode_s, is_parallel=is_parallel)
    length = fit_length(measured, WORK, SIZES, minutes=minutes)
    epochs = length.epochs or (length.steps or 0) / 20
    assert length.expected_s == pytest.approx(measured.at(length.image_size).total_s(WORK, epochs))
    if length.steps == 1:
        return  # the least that a run can have
    assert length.expected_s <= 60 * minutes
    one_more = measured.at(length.image_size).total_s(WORK, epochs + (1 if length.epochs else 1 / 20))
    assert one_more > MARGIN * 60 * minutes or epochs == 60


def test_much_time_ends_at_three_times_the_usual_epochs():
    assert fit_length(times(0.03), WORK, SIZES, minutes=10_000).epochs == 60


def test_a_part_of_an_epoch_is_stated_in_steps():
    length = fit_length(times(0.03), WORK, SIZES, minutes=0.05)
    assert (length.image_size, length.epochs) == (128, None)
    assert length.steps in range(1, 20)


def test_smaller_images_take_less_time_in_proportion_to_their_pixels():
    half = times(0.4, 0.01).at(112)
    assert (half.train_s, half.decode_s) == (pytest.approx(0.1), 0.01)
