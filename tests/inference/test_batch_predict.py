"""Batch prediction: in order, as a stream, with bounded memory, whatever the workers do."""

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
from resnetlab.inference.batch_predict import PREFETCH_BATCHES, default_batch_size, predict_batches
from resnetlab.inference.inputs import ImageInput
from resnetlab.inference.predictor import BrokenNetworkError, Predictor
from resnetlab.models.model_file import ModelCard


@pytest.fixture(scope="module")
def predictor():
    model = network()
    return Predictor(model, ModelCard(model.config, CLASSES, COLOUR))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Thirty image files, of which numbers 7 and 20 are invalid."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((70, 50), Image.Resampling.BICUBIC).save(root / f"{number:02}.png")
    for number in (7, 20):
        (root / f"{number:02}.png").write_bytes(b"words")
    return sorted(root.iterdir())


class SlowInput(ImageInput):
    """An input of which every eighth is slow to read."""

    def read(self) -> bytes:
        time.sleep(0.03 if int(self.name) % 8 == 0 else 0.0)
        return super().read()


def slow_inputs(files) -> list[ImageInput]:
    return [SlowInput(str(number), file) for number, file in enumerate(files)]


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (1, 30), (2, 4), (4, 3), (3, 100)])
def test_results_are_in_order_and_correct(predictor, files, workers, batch_size):
    results = list(predict_batches(predictor, slow_inputs(files), top=2, batch_size=batch_size, workers=workers))
    assert [result.name for result in results] == [str(number) for number in range(30)]
    for number, (file, result) in enumerate(zip(files, results, strict=True)):
        if number in (7, 20):
            assert result.prediction is None
            assert result.error.endswith(", not an image")
            continue
        assert result.prediction is not None
        single = predictor(file, top=2)
        assert result.error == ""
        assert [name for name, _ in result.prediction.top] == [name for name, _ in single.top]
        assert result.prediction.probability == pytest.approx(single.probability, abs=1e-5)
    assert len({result.prediction.probability for result in results if result.prediction}) == 28


def test_results_do_not_depend_on_the_number_of_workers(predictor, files):
    one, four = (
        list(predict_batches(predictor, slow_inputs(files), batch_size=4, workers=workers)) for workers in (1, 4)
    )
    assert one == four


def test_memory_is_bounded(predictor, files):
    """The number of started inputs is limited, and each worker holds one file."""
    started, num_open, max_open = 0, 0, 0
    lock = threading.Lock()

    class Counted(ImageInput):
        def read(self) -> bytes:
            nonlocal num_open, max_open
            with lock:
                num_open += 1
                max_open = max(max_open, num_open)
            time.sleep(0.002)
            with lock:
                num_open -= 1
            return super().read()

    def inputs() -> Iterator[ImageInput]:
        nonlocal started
        for _ in range(100):
            started += 1
            yield Counted("x", files[0])

    workers, batch_size = 2, 3
    finished = 0
    for _ in predict_batches(predictor, inputs(), batch_size=batch_size, workers=workers):
        finished += 1
        time.sleep(0.001)
        # Started batches, plus one that is being filled and one that is being yielded.
        assert started - finished <= (workers + PREFETCH_BATCHES + 2) * batch_size
    assert finished == started == 100
    assert max_open <= workers


def test_none_ends_a_batch_early(predictor, files):
    """The second input is available only after the result of the first."""
    finished = threading.Event()

    def inputs() -> Iterator[ImageInput | None]:
        yield ImageInput("first", files[0])
        yield None
        yield None
        assert finished.wait(20)
        yield ImageInput("second", files[1])

    names = []
    for result in predict_batches(predictor, inputs(), batch_size=16, workers=2):
        names.append(result.name)
        finished.set()
    assert names == ["first", "second"]


def test_closing_the_generator_ends_its_threads(predictor, files):
    before = threading.active_count()
    started = 0

    def endless() -> Iterator[ImageInput]:
        nonlocal started
        while True:
            started += 1
            yield ImageInput("x", files[0])

    with closing(predict_batches(predictor, endless(), batch_size=2, workers=2)) as results:
        next(results)
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert started < 50


def test_closing_the_generator_stops_the_overlays(predictor, files):
    num_rendered = 0

    def render(*arguments: object) -> None:
        nonlocal num_rendered
        num_rendered += 1
        time.sleep(0.05)

    inputs = [ImageInput(str(number), files[0]) for number in range(64)]
    with closing(predict_batches(predictor, inputs, batch_size=16, workers=1, render=render)) as results:
        next(results)
    assert 16 <= num_rendered < 32


def test_errors_are_raised_in_the_consumer(predictor, files):
    def failing_inputs() -> Iterator[ImageInput]:
        yield ImageInput("x", files[0])
        raise RuntimeError("the list ended")

    results = predict_batches(predictor, failing_inputs(), batch_size=1)
    assert next(results).name == "x"
    with pytest.raises(RuntimeError, match="the list ended"):
        next(results)
    model = network()
    torch.nn.init.constant_(model.fc.weight, torch.nan)
    with pytest.raises(BrokenNetworkError):
        list(predict_batches(Predictor(model, ModelCard(model.config, CLASSES, COLOUR)), slow_inputs(files)))


def test_a_memory_error_concerns_one_image(predictor, files):
    class LargeInput(ImageInput):
        def read(self) -> bytes:
            raise MemoryError

    first, second = predict_batches(predictor, [LargeInput("x", files[0]), ImageInput("y", files[0])])
    assert first.error == "needs more memory than is available"
    assert second.prediction is not None


def test_render_gets_the_encoded_image_its_view_and_prediction(predictor, files):
    results = list(predict_batches(predictor, slow_inputs(files)[5:9], render=lambda *args: args, batch_size=3))
    for result, file in zip(results, files[5:9], strict=True):
        if result.prediction is None:
            assert result.overlay is None
            continue
        encoded, view, prediction = result.overlay
        assert encoded == file.read_bytes()
        np.testing.assert_array_equal(view, predictor.preprocess(file))
        assert prediction is result.prediction


def test_default_batch_sizes():
    assert [default_batch_size(size**2) for size in (1, 32, 64, 224, 1000)] == [128, 128, 98, 8, 1]
    assert [default_batch_size(size**2, with_overlays=True) for size in (1, 32, 64, 224, 1000)] == [8, 8, 8, 8, 1]


def test_empty_inputs(predictor):
    assert list(predict_batches(predictor, [])) == []
    assert list(predict_batches(predictor, [None, None])) == []
    with pytest.raises(BadImageError):
        ImageInput("x", None, "why").read()
