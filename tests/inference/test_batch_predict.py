"""In order, as they come, bounded: whatever the workers do meanwhile."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small_network import CLASSES, COLOUR, network
from resnetlab.data.images.decode import BadImageError
from resnetlab.inference.batch_predict import AHEAD, default_batch_size, predict_batches
from resnetlab.inference.inputs import ImageInput
from resnetlab.inference.predictor import BrokenNetworkError, Predictor
from resnetlab.models.model_file import ModelCard


@pytest.fixture(scope="module")
def predictor():
    model = network()
    return Predictor(model, ModelCard(model.config, CLASSES, COLOUR))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Thirty pictures, the seventh and the twentieth of which are none."""
    root, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(30):
        pixels = chance.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 50), Image.Resampling.BICUBIC).save(root / f"{number:02}.png")
    for number in (7, 20):
        (root / f"{number:02}.png").write_bytes(b"words")
    return sorted(root.iterdir())


class Slow(ImageInput):
    """An input that takes its time, the earlier ones more."""

    def read(self) -> bytes:
        time.sleep(0.03 if int(self.name) % 8 == 0 else 0.0)
        return super().read()


def slow(files) -> list[ImageInput]:
    return [Slow(str(number), file) for number, file in enumerate(files)]


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (1, 30), (2, 4), (4, 3), (3, 100)])
def test_answers_are_in_order_and_right(predictor, files, workers, batch_size):
    found = list(predict_batches(predictor, slow(files), top=2, batch_size=batch_size, workers=workers))
    assert [one.name for one in found] == [str(number) for number in range(30)]
    for number, (file, answer) in enumerate(zip(files, found, strict=True)):
        if number in (7, 20):
            assert answer.prediction is None
            assert answer.error.startswith("not an image that can be read")
            continue
        assert answer.prediction is not None
        alone = predictor(file, top=2)
        assert answer.error == ""
        assert [name for name, _ in answer.prediction.top] == [name for name, _ in alone.top]
        assert answer.prediction.probability == pytest.approx(alone.probability, abs=1e-5)
    assert len({answer.prediction.probability for answer in found if answer.prediction}) == 28


def test_the_numbers_do_not_depend_on_the_workers(predictor, files):
    one, four = (list(predict_batches(predictor, slow(files), batch_size=4, workers=workers)) for workers in (1, 4))
    assert one == four


def test_what_is_in_memory_is_bounded(predictor, files):
    """Few inputs are taken before the first answer, no more than promised ever, and each worker holds one file."""
    taken, open_now, most_open = 0, 0, 0
    lock = threading.Lock()

    class Counted(ImageInput):
        def read(self) -> bytes:
            nonlocal open_now, most_open
            with lock:
                open_now += 1
                most_open = max(most_open, open_now)
            time.sleep(0.002)
            with lock:
                open_now -= 1
            return super().read()

    def source() -> Iterator[ImageInput]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield Counted("x", files[0])

    workers, batch_size = 2, 3
    given = 0
    for _ in predict_batches(predictor, source(), batch_size=batch_size, workers=workers):
        given += 1
        time.sleep(0.001)
        # Batches begun or waiting for a worker; one more is being filled, and one is being handed on.
        assert taken - given <= (workers + AHEAD + 2) * batch_size
    assert given == taken == 100
    assert most_open <= workers


def test_what_has_come_is_not_kept_waiting(predictor, files):
    """A source that gives its second picture only when the first was answered."""
    answered = threading.Event()

    def source() -> Iterator[ImageInput | None]:
        yield ImageInput("first", files[0])
        yield None
        yield None
        assert answered.wait(20)
        yield ImageInput("second", files[1])

    names = []
    for answer in predict_batches(predictor, source(), batch_size=16, workers=2):
        names.append(answer.name)
        answered.set()
    assert names == ["first", "second"]


def test_left_early_its_threads_end(predictor, files):
    before = threading.active_count()
    taken = 0

    def endless() -> Iterator[ImageInput]:
        nonlocal taken
        while True:
            taken += 1
            yield ImageInput("x", files[0])

    with closing(predict_batches(predictor, endless(), batch_size=2, workers=2)) as made:
        next(made)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert taken < 50


def test_left_early_no_more_is_drawn(predictor, files):
    drawn = 0

    def draw(*seen: object) -> None:
        nonlocal drawn
        drawn += 1
        time.sleep(0.05)

    pictures = [ImageInput(str(number), files[0]) for number in range(64)]
    with closing(predict_batches(predictor, pictures, batch_size=16, workers=1, also=draw)) as made:
        next(made)
    assert 16 <= drawn < 32


def test_what_goes_wrong_is_raised_where_it_is_asked_for(predictor, files):
    def broken() -> Iterator[ImageInput]:
        yield ImageInput("x", files[0])
        raise RuntimeError("the list broke off")

    made = predict_batches(predictor, broken(), batch_size=1)
    assert next(made).name == "x"
    with pytest.raises(RuntimeError, match="the list broke off"):
        next(made)
    model = network()
    torch.nn.init.constant_(model.fc.weight, torch.nan)
    with pytest.raises(BrokenNetworkError):
        list(predict_batches(Predictor(model, ModelCard(model.config, CLASSES, COLOUR)), slow(files)))


def test_memory_that_is_not_there_is_an_error_of_that_picture(predictor, files):
    class Greedy(ImageInput):
        def read(self) -> bytes:
            raise MemoryError

    first, second = predict_batches(predictor, [Greedy("x", files[0]), ImageInput("y", files[0])])
    assert first.error == "needs more memory than there is"
    assert second.prediction is not None


def test_also_sees_what_was_read(predictor, files):
    found = list(predict_batches(predictor, slow(files)[5:9], also=lambda *seen: seen, batch_size=3))
    for answer, file in zip(found, files[5:9], strict=True):
        if answer.prediction is None:
            assert answer.also is None
            continue
        data, view, prediction = answer.also
        assert data == file.read_bytes()
        np.testing.assert_array_equal(view, predictor.view(file))
        assert prediction is answer.prediction


def test_batches_are_smaller_the_larger_the_images():
    assert [default_batch_size(size) for size in (1, 32, 64, 224, 1000)] == [128, 128, 98, 8, 1]
    assert [default_batch_size(size, explained=True) for size in (1, 32, 64, 224, 1000)] == [8, 8, 8, 8, 1]


def test_nothing_comes_of_nothing(predictor):
    assert list(predict_batches(predictor, [])) == []
    assert list(predict_batches(predictor, [None, None])) == []
    with pytest.raises(BadImageError):
        ImageInput("x", None, "why").read()
