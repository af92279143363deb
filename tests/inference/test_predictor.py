"""`Predictor` against evaluation, for every supported image type; and its errors."""

import struct
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small_network import CLASSES, COLOUR, GREY, model_file, network
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import BadImageError
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.loader import eval_batches
from resnetlab.inference.predictor import BrokenNetworkError, Prediction, Predictor, load
from resnetlab.inference.probe_images import luma
from resnetlab.models.model_file import ModelCard, ModelFileError, save_model

from conftest import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "imagenette224-sample"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load(model_file(tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return load(model_file(tmp_path_factory.mktemp("grey") / "model.safetensors", GREY))


def write_images(root: Path, count: int = 20) -> list[Path]:
    """Write images of several formats and sizes."""
    files = []
    for number in range(count):
        suffix, height, width = ("jpg", "png", "webp")[number % 3], 30 + 9 * number, 200 - 7 * number
        small = Image.fromarray(RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        files.append(root / f"{number}.{suffix}")
        small.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def by_evaluation(predictor: Predictor, files: list[Path]) -> np.ndarray:
    """Return the probabilities that evaluation computes for image files."""
    images = EncodedImages(
        files,
        [str(file) for file in files],
        torch.ones(len(files), 2, dtype=torch.int64),
        view=EvalView.of(predictor.preprocessing),
    )
    split = Split(images, torch.zeros(len(files), dtype=torch.int64))
    ((batch, _),) = eval_batches(split, predictor.preprocessing)
    with torch.no_grad():
        return predictor.model(batch).double().softmax(1).numpy()


def test_predictions_for_files_equal_those_of_evaluation(predictor, tmp_path):
    files = write_images(tmp_path)
    expected = by_evaluation(predictor, files)
    np.testing.assert_array_equal(predictor.probabilities(files), expected)
    assert len({prediction.label for prediction in predictor(files)}) > 1


def test_predictions_for_photographs_equal_those_of_evaluation(tmp_path):
    if not SAMPLE.exists():
        pytest.skip(f"no {SAMPLE}")
    large = replace(COLOUR, image_size=64)
    predictor = load(model_file(tmp_path / "model.safetensors", large))
    files = sorted(SAMPLE.rglob("*.JPEG"))[::25]
    assert len(files) == 20
    np.testing.assert_array_equal(predictor.probabilities(files), by_evaluation(predictor, files))


def test_several_batches_are_in_order(predictor, tmp_path):
    files = write_images(tmp_path, 5) * 30
    probabilities = predictor.probabilities(files)
    assert probabilities.shape == (150, len(CLASSES))
    np.testing.assert_allclose(probabilities, np.tile(predictor.probabilities(files[:5]), (30, 1)), atol=1e-6)


def test_a_prediction_ranks_the_classes(predictor):
    row = predictor.probabilities(PIXELS)[0]
    assert row.dtype == np.float64
    assert row.sum() == pytest.approx(1)
    prediction = predictor(PIXELS, top=3)
    ranked = sorted(zip(CLASSES, row.tolist(), strict=True), key=lambda pair: -pair[1])
    assert prediction == Prediction(*ranked[0], tuple(ranked[:3]))
    assert len(predictor(PIXELS, top=99).top) == len(CLASSES)
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        predictor(PIXELS, top=0)


def test_equally_probable_classes_are_in_order():
    model = network()
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.zeros_(model.fc.bias)
    prediction = Predictor(model, ModelCard(model.config, CLASSES, COLOUR))(PIXELS)
    assert [name for name, _ in prediction.top] == list(CLASSES[:5])


def test_str_and_repr(predictor):
    prediction = Prediction("cat", 0.98765, (("cat", 0.98765), ("dog", 0.01235)))
    assert str(prediction) == "cat 98.8 %, dog 1.2 %"
    assert repr(prediction) == "Prediction('cat', 0.9877, top=(('cat', 0.9877), ('dog', 0.0123)))"
    assert repr(predictor) == "Predictor(resnet8, 6 classes, 32 x 32 pixels)"
    assert predictor.classes == CLASSES
    assert predictor.preprocessing == COLOUR
    assert not predictor.model.training


def test_one_image_of_every_type(predictor, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    inputs = {
        "path": tmp_path / "one.png",
        "str": str(tmp_path / "one.png"),
        "bytes": (tmp_path / "one.png").read_bytes(),
        "bytearray": bytearray((tmp_path / "one.png").read_bytes()),
        "PIL": Image.fromarray(PIXELS),
        "PIL, lazy": Image.open(tmp_path / "one.png"),
        "array": PIXELS,
        "float array": PIXELS / 255,
        "float32 array": (PIXELS / 255).astype(np.float32),
        "read-only array": np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
        "strided": np.repeat(PIXELS, 2, axis=1)[:, ::2],
        "tensor": tensor,
        "float tensor": tensor / 255,
        "float64 tensor": tensor.double() / 255,
    }
    expected = predictor.probabilities(inputs["path"])
    for name, image in inputs.items():
        np.testing.assert_array_equal(predictor.probabilities(image), expected, err_msg=name)
        assert isinstance(predictor(image), Prediction), name
    batch = predictor(list(inputs.values()))
    assert len(batch) == len(inputs)
    assert {prediction.label for prediction in batch} == {predictor(PIXELS).label}


def test_batches(predictor):
    several = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tensors = torch.from_numpy(several).permute(0, 3, 1, 2)
    for image in (
        several,
        list(several),
        tuple(several),
        tensors,
        list(tensors),
        [Image.fromarray(pixels) for pixels in several],
    ):
        np.testing.assert_array_equal(predictor.probabilities(image), predictor.probabilities(several))
        assert len(predictor(image)) == 4
    assert predictor([]) == []
    assert predictor.probabilities([]).shape == (0, len(CLASSES))
    assert predictor(several[:1]) == [predictor(several[0])]


def test_grey_images_for_a_colour_network(predictor):
    pixels = PIXELS[:, :, 0]
    expected = predictor.probabilities(np.stack([pixels] * 3, -1))
    for image in (
        pixels,
        pixels[:, :, None],
        torch.from_numpy(pixels),
        torch.from_numpy(pixels)[None],
        Image.fromarray(pixels),
    ):
        np.testing.assert_array_equal(predictor.probabilities(image), expected)


def test_colour_images_for_a_grey_network(grey):
    square = PIXELS[:28, :28]
    brightness = np.array(Image.fromarray(square).convert("L"))
    np.testing.assert_array_equal(luma(PIXELS)[:, :, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(luma(np.stack([levels] * 3, -1))[:, 0], levels)
    images = (torch.from_numpy(brightness).float()[None, None] / 255 - 0.29) / 0.35
    with torch.no_grad():
        expected = grey.model(images).double().softmax(1).numpy()
    for image in (square, Image.fromarray(square), brightness):
        np.testing.assert_allclose(grey.probabilities(image), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV", "RGBX"])
def test_pil_images_of_every_mode(predictor, mode):
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((PIXELS[:, :, 0].astype(np.float64) * (257 if mode != "F" else 1 / 255)).astype(kind))
        expected = Image.fromarray(PIXELS[:, :, 0]).convert("RGB")
    else:
        image = Image.fromarray(PIXELS).convert(mode)
        expected = image.convert("RGB")
    assert image.mode == mode
    np.testing.assert_array_equal(predictor.probabilities(image), predictor.probabilities(np.asarray(expected)))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_pil_image_gives_the_same_as_its_file(predictor, tmp_path, orientation):
    """A TIFF of 16 bits whose zero is white, which Pillow opens as a negative."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257).save(file, "TIFF", exif=exif)
    encoded = file.getvalue().replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))
    white = np.rot90(255 - PIXELS[:, :, 0], -(orientation == 6))
    for image in (encoded, Image.open(BytesIO(encoded))):
        np.testing.assert_array_equal(predictor.probabilities(image), predictor.probabilities(white))


def test_the_orientation_of_a_pil_image_is_applied(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    expected = predictor.probabilities(np.rot90(PIXELS, -1))
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_array_equal(predictor.probabilities(image), expected)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), ValueError, "3 channels or 1; its channels are on the wrong axis"),
        (torch.zeros(40, 50, 3), ValueError, "3 channels or 1; its channels are on the wrong axis"),
        (
            np.zeros((40, 50, 4), np.uint8),
            ValueError,
            r"an array of shape \(40, 50, 4\) is not an image \(height, width",
        ),
        (np.zeros(9, np.uint8), ValueError, "of shape .9,. is not an image"),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), ValueError, "is not an image"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "has no pixels"),
        (torch.zeros(3, 5, 0), ValueError, "a tensor of shape .3, 5, 0. has no pixels"),
        (Image.new("RGB", (0, 5)), ValueError, "a PIL image of 0 x 5 has no pixels"),
        (
            PIXELS.astype(np.float32),
            ValueError,
            "float pixels must be 0 to 1, not 0 to 255; divide by 255, or give uint8",
        ),
        (np.full((5, 5, 3), np.nan), ValueError, "not nan to nan"),
        (np.full((5, 5, 3), -0.1), ValueError, "not -0.1 to -0.1"),
        (PIXELS.astype(np.int64), TypeError, r"pixels must be uint8 \(0 to 255\) or floats \(0 to 1\), not int64"),
        (PIXELS > 9, TypeError, "not bool"),
        (7, TypeError, "int is not a supported image type; give a path, encoded bytes"),
        (None, TypeError, "NoneType is not"),
        ({"a.jpg"}, TypeError, "set is not"),
        (b"", BadImageError, "is empty"),
        (b"words", BadImageError, "a text file, not an image"),
        ("nowhere.jpg", FileNotFoundError, r"nowhere\.jpg"),
        ([PIXELS, 7], TypeError, "image 1 of the batch: int is not a supported image type"),
        ([[PIXELS]], TypeError, "image 0 of the batch: list is not a supported image type"),
        ([PIXELS, b"words"], ValueError, "image 1 of the batch: a text file, not an image"),
        (np.zeros((2, 5, 5, 4), np.uint8), ValueError, "image 0 of the batch: an array of shape .5, 5, 4."),
    ],
)
def test_errors_of_invalid_images(predictor, wrong, error, message):
    with pytest.raises(error, match=message):
        predictor(wrong)


def test_a_bad_file_is_named(predictor, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(BadImageError, match=rf"^{tmp_path}/bad\.jpg: "):
        predictor([PIXELS, tmp_path / "bad.jpg"])


def test_a_broken_network_is_an_error():
    model = network()
    torch.nn.init.constant_(model.fc.bias, torch.nan)
    predictor = Predictor(model, ModelCard(model.config, CLASSES, COLOUR))
    with pytest.raises(BrokenNetworkError, match="resnet8 gives probabilities that are not finite: its weights are"):
        predictor(PIXELS)


def test_invalid_model_files(tmp_path):
    model = network()
    card = ModelCard(model.config, CLASSES, replace(COLOUR, mean=(0.5,), std=(1.0,)))
    save_model(tmp_path / "m.safetensors", model, card)
    with pytest.raises(ModelFileError, match=r"m\.safetensors: resnet8 has 3 input channels, its preprocessing 1$"):
        load(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="resnet8 has 6 outputs and 2 class names"):
        Predictor(model, ModelCard(model.config, ("a", "b"), COLOUR))
    with pytest.raises(ModelFileError, match="no such model file"):
        load(tmp_path / "nowhere.safetensors")


def test_load_from_a_run_directory(tmp_path):
    model_file(tmp_path / "model.safetensors")
    assert load(str(tmp_path)).classes == CLASSES


def test_threads_share_a_predictor_and_global_state_stays(predictor):
    images = [RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(12)]
    expected = [predictor.probabilities(image) for image in images]
    before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    wrong = []

    def work(first: int) -> None:
        order = [index % 12 for index in range(first, first + 24)]
        wrong.extend(i for i in order if not np.array_equal(predictor.probabilities(images[i]), expected[i]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()) == before[1:]
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
