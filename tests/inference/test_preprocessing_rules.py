"""Evaluation, prediction, serving, export and overlays follow the resizing of the model file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.reference_views import encoded, odd_photographs, reference_view, resample_with_numpy
from helpers.small_network import CLASSES, COLOUR, model_file, network
from resnetlab.config import ConfigError, DataConfig, Preprocessing, RunConfig
from resnetlab.data.dataset import Split
from resnetlab.data.eval_dataset import open_eval_dataset
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import FULL_SIZE
from resnetlab.data.transforms import normalise
from resnetlab.evaluation.crops import resize_shorter_side
from resnetlab.evaluation.protocols import ten_crop
from resnetlab.inference.explain import CAPTION_HEIGHT, MIN_SIDE, render_overlay
from resnetlab.inference.formats.metadata import (
    INPUT,
    Agreement,
    ExportMetadata,
    encode_metadata,
    expected_shapes,
    parse_metadata,
)
from resnetlab.inference.formats.onnx_graph import ExportableNetwork
from resnetlab.inference.predictor import Predictor, load
from resnetlab.inference.probe_images import probe_images, user_images
from resnetlab.models.model_card import ModelCard, read_card
from resnetlab.serialization import from_json, to_json
from resnetlab.serving.worker_model import min_side
from resnetlab.training.init_weights import source_preprocessing

LIKE_TIMM = replace(COLOUR, image_size=24, image_width=40, interpolation="bicubic", resize_rule="timm", fit="pad")
FIVE = Preprocessing(20, (0.5,) * 5, (0.2,) * 5, fit="pad", image_width=28)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tree of six photographs of odd sizes, two a class."""
    root = tmp_path_factory.mktemp("photographs")
    for number, image in enumerate(odd_photographs(6)):
        folder = root / CLASSES[number % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(encoded(image, "JPEG"))
    return sorted(root.rglob("*.jpg"))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    return load(model_file(tmp_path_factory.mktemp("model") / "timm.safetensors", LIKE_TIMM))


def reference(file) -> np.ndarray:
    chosen = {"rule": "timm", "interpolation": "bicubic", "fit": "pad", "mean": LIKE_TIMM.mean}
    with Image.open(file) as image:
        return reference_view(image.convert("RGB"), (24, 40), LIKE_TIMM.crop_ratio, **chosen)


def test_prediction_takes_each_type_of_image(predictor, files):
    for file in files:
        with Image.open(file) as image:
            image.load()
            arrays = np.asarray(image), torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
            for item in (file, file.read_bytes(), image, *arrays):
                np.testing.assert_array_equal(predictor.preprocess(item), reference(file))
    assert repr(predictor) == "Predictor(resnet8, 6 classes, 24 x 40 pixels)"


def test_evaluation_and_export_see_the_same_pixels(predictor, files):
    data = DataConfig(str(files[0].parents[1]))
    for keep_encoded in (True, False):
        dataset = open_eval_dataset(data, LIKE_TIMM, "all", keep_encoded=keep_encoded)
        images = dataset.split.images
        assert isinstance(images, EncodedImages) == keep_encoded
        pixels = images.decode_eval_views(torch.arange(6))[0] if isinstance(images, EncodedImages) else images
        by_name = dict(zip(dataset.split.names, pixels.permute(0, 2, 3, 1).numpy(), strict=True))
        for file in files:
            np.testing.assert_array_equal(by_name[str(file.relative_to(files[0].parents[1]))], reference(file))
    views = user_images({str(file): file.read_bytes() for file in files}, LIKE_TIMM)
    np.testing.assert_array_equal(views, np.stack([reference(file) for file in files]))
    assert probe_images(LIKE_TIMM).shape == (32, 24, 40, 3)


def test_the_rule_travels_in_model_files_and_exports(predictor, tmp_path):
    assert predictor.preprocessing == LIKE_TIMM
    agreement = Agreement(0.0, 1e-4, {}, 100.0, 1)
    metadata = ExportMetadata("onnx", "fp32", agreement, "0" * 64)
    card, _ = parse_metadata(encode_metadata(predictor.card, metadata), tmp_path, "onnx")
    assert card.preprocessing == LIKE_TIMM
    assert expected_shapes(card)[INPUT] == (24, 40, 3)


def test_files_without_the_rule_mean_that_of_resnetlab_and_stay_equal(tmp_path):
    fields = ["image_size", "mean", "std", "pixel_mean", "crop_ratio", "color_profiles"]
    assert list(to_json(COLOUR)) == fields
    card = read_card(model_file(tmp_path / "a.safetensors"))
    assert list(to_json(card)["preprocessing"]) == fields
    assert from_json(Preprocessing, to_json(COLOUR)).resize_rule == "resnetlab"
    assert list(to_json(LIKE_TIMM)) == [*fields, "interpolation", "resize_rule", "fit", "image_width"]
    for wrong in ({"fit": "stretch"}, {"resize_rule": "pil"}, {"interpolation": "nearest"}, {"image_width": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(COLOUR, **wrong)


def test_an_exported_network_normalises_rectangles():
    values = tuple(float(value) for value in np.linspace(0.2, 0.6, 3 * 24 * 40))
    for pre in (LIKE_TIMM, replace(LIKE_TIMM, pixel_mean=values)):
        model, views = network(pre), torch.randint(256, (2, 24, 40, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = model(normalise(views.permute(0, 3, 1, 2), pre))
            torch.testing.assert_close(ExportableNetwork(model, pre)(views), expected, rtol=1e-4, atol=1e-4)


def test_overlays_show_the_view(predictor, files):
    prediction = predictor(files[0])
    overlay = render_overlay(predictor, prediction, encoded=files[0].read_bytes(), view=predictor.preprocess(files[0]))
    assert overlay.size == (round(40 * MIN_SIDE / 24), MIN_SIDE + CAPTION_HEIGHT)


def test_the_server_reserves_memory_for_whole_jpegs(predictor, tmp_path):
    assert min_side(predictor) == FULL_SIZE
    assert min_side(load(model_file(tmp_path / "a.safetensors"))) == 2 * round(MIN_SIDE / 0.875)


def test_crops_of_whole_images_follow_rule_and_interpolation():
    image = odd_photographs(1)[0]
    pixels = np.asarray(image)
    scale = 50 / min(pixels.shape[:2])
    long = int(scale * max(pixels.shape[:2]) + 1e-9)
    width, height = (50, long) if image.width < image.height else (long, 50)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    published = replace(COLOUR, resize_rule="torchvision", interpolation="bicubic")
    np.testing.assert_array_equal(resize_shorter_side(pixels, 50, published), expected)
    split = Split(torch.zeros(1, 3, 30, 30, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ConfigError, match="ten crops are square, and the network reads 24 x 40 pixels"):
        next(iter(ten_crop(network(), split, LIKE_TIMM, side=60)))


def test_training_from_a_network_for_rectangles_needs_a_side(predictor, tmp_path):
    file = str(model_file(tmp_path / "a.safetensors", LIKE_TIMM))
    with pytest.raises(ConfigError, match=r"reads images of 24 x 40 pixels, .*--image-size"):
        source_preprocessing(RunConfig(weights=file), None)
    square = source_preprocessing(RunConfig(weights=file, data=DataConfig(image_size=32)), None)
    assert square == replace(LIKE_TIMM, image_size=32, image_width=None)


def test_a_network_of_five_channels_takes_arrays(tmp_path, files):
    predictor = Predictor(network(FIVE), ModelCard(network(FIVE).config, CLASSES, FIVE))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 5), dtype=np.uint8)
    view = predictor.preprocess(pixels)
    assert np.abs(view.astype(int) - resample_with_numpy(pixels, (20, 28), "bilinear")).max() <= 1
    np.testing.assert_array_equal(predictor.preprocess(torch.from_numpy(pixels.transpose(2, 0, 1).copy())), view)
    np.testing.assert_array_equal(predictor.preprocess(pixels / 255), view)
    assert predictor.probabilities(pixels[None]).shape == (1, 6)
    assert probe_images(FIVE).shape == (32, 20, 28, 5)
    with pytest.raises(ValueError, match=r"array of shape \(40, 56, 3\) is not an image .* with 5 channels"):
        predictor.preprocess(pixels[:, :, :3])
    with Image.open(files[0]) as image, pytest.raises(ValueError, match="a PIL image has no 5 channels"):
        predictor.preprocess(image)
    for item in (files[0], files[0].read_bytes()):
        with pytest.raises(ConfigError, match=r"reads 5 channels, .*; give arrays \(height, width, 5\)"):
            predictor.preprocess(item)
    with pytest.raises(ConfigError, match="reads 5 channels"):
        user_images({"a": files[0].read_bytes()}, FIVE)
