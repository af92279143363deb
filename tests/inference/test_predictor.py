"""Every way to give a picture, compared with evaluation and with plain arithmetic; and what is refused."""

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
from resnetlab.data.loader import eval_batches
from resnetlab.inference.predictor import BrokenNetworkError, Prediction, Predictor, load
from resnetlab.inference.probe_images import luma
from resnetlab.models.model_file import ModelCard, ModelFileError

from conftest import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "imagenette224-sample"
CHANCE = np.random.default_rng(0)
PIXELS = CHANCE.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load(model_file(tmp_path_factory.mktemp("model") / "model.safetensors"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return load(model_file(tmp_path_factory.mktemp("grey") / "model.safetensors", GREY))


def folder(root: Path, count: int = 20) -> list[Path]:
    """Write pictures of several formats and sizes."""
    files = []
    for number in range(count):
        suffix, height, width = ("jpg", "png", "webp")[number % 3], 30 + 9 * number, 200 - 7 * number
        small = Image.fromarray(CHANCE.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        files.append(root / f"{number}.{suffix}")
        small.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def evaluated(predictor: Predictor, files: list[Path]) -> np.ndarray:
    """What evaluation computes for the images of a folder."""
    size, ratio = predictor.preprocessing.image_size, predictor.preprocessing.crop_ratio
    images = EncodedImages(
        files,
        [str(file) for file in files],
        torch.ones(len(files), 2, dtype=torch.int64),
        image_size=size,
        crop_ratio=ratio,
    )
    split = Split(images, torch.zeros(len(files), dtype=torch.int64))
    ((batch, _),) = eval_batches(split, predictor.preprocessing)
    with torch.no_grad():
        return predictor.model(batch).double().softmax(1).numpy()


def test_files_are_seen_as_evaluation_sees_them(predictor, tmp_path):
    files = folder(tmp_path)
    expected = evaluated(predictor, files)
    np.testing.assert_array_equal(predictor.probabilities(files), expected)
    assert len({prediction.label for prediction in predictor(files)}) > 1


def test_photographs_are_seen_as_evaluation_sees_them(tmp_path):
    if not SAMPLE.exists():
        pytest.skip(f"no {SAMPLE}")
    large = replace(COLOUR, image_size=64)
    predictor = load(model_file(tmp_path / "model.safetensors", large))
    files = sorted(SAMPLE.rglob("*.JPEG"))[::25]
    assert len(files) == 20
    np.testing.assert_array_equal(predictor.probabilities(files), evaluated(predictor, files))


def test_more_than_a_batch_is_in_order(predictor, tmp_path):
    files = folder(tmp_path, 5) * 30
    found = predictor.probabilities(files)
    assert found.shape == (150, len(CLASSES))
    np.testing.assert_allclose(found, np.tile(predictor.probabilities(files[:5]), (30, 1)), atol=1e-6)


def test_a_prediction_ranks_what_is_probable(predictor):
    row = predictor.probabilities(PIXELS)[0]
    assert row.dtype == np.float64
    assert row.sum() == pytest.approx(1)
    said = predictor(PIXELS, top=3)
    ranked = sorted(zip(CLASSES, row.tolist(), strict=True), key=lambda pair: -pair[1])
    assert said == Prediction(*ranked[0], tuple(ranked[:3]))
    assert len(predictor(PIXELS, top=99).top) == len(CLASSES)
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        predictor(PIXELS, top=0)


def test_of_equally_probable_classes_the_first_comes_first():
    model = network()
    torch.nn.init.zeros_(model.fc.weight)
    torch.nn.init.zeros_(model.fc.bias)
    said = Predictor(model, ModelCard(model.config, CLASSES, COLOUR))(PIXELS)
    assert [name for name, _ in said.top] == list(CLASSES[:5])


def test_words(predictor):
    said = Prediction("cat", 0.98765, (("cat", 0.98765), ("dog", 0.01235)))
    assert str(said) == "cat 98.8 %, dog 1.2 %"
    assert repr(said) == "Prediction('cat', 0.9877, top=(('cat', 0.9877), ('dog', 0.0123)))"
    assert repr(predictor) == "Predictor(resnet8, 6 classes, 32 x 32 pixels)"
    assert predictor.classes == CLASSES
    assert predictor.preprocessing == COLOUR
    assert not predictor.model.training


def test_one_picture_in_every_form(predictor, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "one.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    forms = {
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
    expected = predictor.probabilities(forms["path"])
    for name, form in forms.items():
        np.testing.assert_array_equal(predictor.probabilities(form), expected, err_msg=name)
        assert isinstance(predictor(form), Prediction), name
    together = predictor(list(forms.values()))
    assert len(together) == len(forms)
    assert {said.label for said in together} == {predictor(PIXELS).label}


def test_batches(predictor):
    several = CHANCE.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    tensors = torch.from_numpy(several).permute(0, 3, 1, 2)
    for form in (several, list(several), tuple(several), tensors, list(tensors), [Image.fromarray(x) for x in several]):
        np.testing.assert_array_equal(predictor.probabilities(form), predictor.probabilities(several))
        assert len(predictor(form)) == 4
    assert predictor([]) == []
    assert predictor.probabilities([]).shape == (0, len(CLASSES))
    assert predictor(several[:1]) == [predictor(several[0])]


def test_grey_pictures_for_a_colour_network(predictor):
    one = PIXELS[:, :, 0]
    expected = predictor.probabilities(np.stack([one] * 3, -1))
    for form in (one, one[:, :, None], torch.from_numpy(one), torch.from_numpy(one)[None], Image.fromarray(one)):
        np.testing.assert_array_equal(predictor.probabilities(form), expected)


def test_colour_pictures_for_a_grey_network(grey):
    square = PIXELS[:28, :28]
    brightness = np.array(Image.fromarray(square).convert("L"))
    np.testing.assert_array_equal(luma(PIXELS)[:, :, 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    everything = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(luma(np.stack([everything] * 3, -1))[:, 0], everything)
    images = (torch.from_numpy(brightness).float()[None, None] / 255 - 0.29) / 0.35
    with torch.no_grad():
        expected = grey.model(images).double().softmax(1).numpy()
    for form in (square, Image.fromarray(square), brightness):
        np.testing.assert_allclose(grey.probabilities(form), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV", "RGBX"])
def test_pil_images_of_every_mode(predictor, mode):
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((PIXELS[:, :, 0].astype(np.float64) * (257 if mode != "F" else 1 / 255)).astype(kind))
        shown = Image.fromarray(PIXELS[:, :, 0]).convert("RGB")
    else:
        image = Image.fromarray(PIXELS).convert(mode)
        shown = image.convert("RGB")
    assert image.mode == mode
    np.testing.assert_array_equal(predictor.probabilities(image), predictor.probabilities(np.asarray(shown)))


@pytest.mark.parametrize("turn", [1, 6])
def test_a_pil_image_is_seen_as_its_file(predictor, tmp_path, turn):
    """A TIFF of 16 bits whose zero is white: Pillow itself leaves that a negative."""
    exif = Image.Exif()
    exif[0x0112] = turn
    file = BytesIO()
    Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257).save(file, "TIFF", exif=exif)
    data = file.getvalue().replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))
    white = np.rot90(255 - PIXELS[:, :, 0], -(turn == 6))
    for form in (data, Image.open(BytesIO(data))):
        np.testing.assert_array_equal(predictor.probabilities(form), predictor.probabilities(white))


def test_a_pil_image_is_upright(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    expected = predictor.probabilities(np.rot90(PIXELS, -1))
    for form in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_array_equal(predictor.probabilities(form), expected)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.zeros((3, 40, 50), np.uint8), ValueError, "3 channels or 1; its channels stand at the wrong end"),
        (torch.zeros(40, 50, 3), ValueError, "3 channels or 1; its channels stand at the wrong end"),
        (np.zeros((40, 50, 4), np.uint8), ValueError, r"an array of shape \(40, 50, 4\) is no picture \(height, width"),
        (np.zeros(9, np.uint8), ValueError, "of shape .9,. is no picture"),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), ValueError, "is no picture"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "has no pixels"),
        (torch.zeros(3, 5, 0), ValueError, "a tensor of shape .3, 5, 0. has no pixels"),
        (Image.new("RGB", (0, 5)), ValueError, "a PIL image of 0 x 5 has no pixels"),
        (PIXELS.astype(np.float32), ValueError, "0 to 1, and these are 0 to 255; divide by 255, or give uint8"),
        (np.full((5, 5, 3), np.nan), ValueError, "these are nan to nan"),
        (np.full((5, 5, 3), -0.1), ValueError, "these are -0.1 to -0.1"),
        (PIXELS.astype(np.int64), TypeError, "pixels are uint8, 0 to 255, or floats 0 to 1, and not int64"),
        (PIXELS > 9, TypeError, "and not bool"),
        (7, TypeError, "no picture can be made of type int; give a path, encoded bytes"),
        (None, TypeError, "of type NoneType"),
        ({"a.jpg"}, TypeError, "of type set"),
        (b"", BadImageError, "is empty"),
        (b"words", BadImageError, "not an image that can be read"),
        ("nowhere.jpg", FileNotFoundError, r"nowhere\.jpg"),
        ([PIXELS, 7], TypeError, "image 1 of the batch: no picture can be made of type int"),
        ([[PIXELS]], TypeError, "image 0 of the batch: no picture can be made of type list"),
        ([PIXELS, b"words"], ValueError, "image 1 of the batch: not an image"),
        (np.zeros((2, 5, 5, 4), np.uint8), ValueError, "image 0 of the batch: an array of shape .5, 5, 4."),
    ],
)
def test_what_is_wrong_is_one_clear_error(predictor, wrong, error, message):
    with pytest.raises(error, match=message):
        predictor(wrong)


def test_a_bad_file_is_named(predictor, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(BadImageError, match=rf"^{tmp_path}/bad\.jpg: "):
        predictor([PIXELS, tmp_path / "bad.jpg"])


def test_a_broken_network_says_so():
    model = network()
    torch.nn.init.constant_(model.fc.bias, torch.nan)
    predictor = Predictor(model, ModelCard(model.config, CLASSES, COLOUR))
    with pytest.raises(BrokenNetworkError, match="resnet8 gives probabilities that are not finite: its weights are"):
        predictor(PIXELS)


def test_files_that_fit_no_picture(tmp_path):
    spectral = replace(COLOUR, mean=(0.5,) * 4, std=(0.2,) * 4)
    with pytest.raises(
        ModelFileError, match=r"m\.safetensors: resnet8 reads 4 channels, its preprocessing 4; pictures"
    ):
        load(model_file(tmp_path / "m.safetensors", spectral))
    model = network()
    with pytest.raises(ValueError, match="resnet8 has 6 outputs, and 2 classes have names"):
        Predictor(model, ModelCard(model.config, ("a", "b"), COLOUR))
    with pytest.raises(ModelFileError, match="no such model file"):
        load(tmp_path / "nowhere.safetensors")


def test_a_run_directory_will_do(tmp_path):
    model_file(tmp_path / "model.safetensors")
    assert load(str(tmp_path)).classes == CLASSES


def test_threads_share_a_predictor_and_nothing_global_changes(predictor):
    pictures = [CHANCE.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(12)]
    expected = [predictor.probabilities(one) for one in pictures]
    before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    wrong = []

    def work(first: int) -> None:
        order = [at % 12 for at in range(first, first + 24)]
        wrong.extend(at for at in order if not np.array_equal(predictor.probabilities(pictures[at]), expected[at]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()) == before[1:]
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
