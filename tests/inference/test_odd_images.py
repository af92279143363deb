"""Hundreds of damaged and unusual images in one run: each gets its own result, within a bounded memory."""

import json
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from helpers.odd_images import encode, encode_as, interlaced, lossless_of_size, noisy_image, odd_images
from helpers.small_network import model_file
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.inference.predictor import load

MAX_EXTRA_MIB = 64
"""Memory that unusual images may need beyond that of as many small ones."""
WITH_PEAK = """
import sys
from resnetlab.cli.main import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)
sys.exit(status)
"""


def run_predict(model: Path, folder: Path) -> tuple[dict[str, dict], int, str, float]:
    """Run the command on a folder; return its results by name, exit status, errors, and peak memory in MiB."""
    command = [sys.executable, "-c", WITH_PEAK, "predict", str(model), str(folder), "--json", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    *errors, peak = done.stderr.splitlines()
    results = {Path(record["path"]).name: record for record in map(json.loads, done.stdout.splitlines())}
    return results, done.returncode, "\n".join(errors), int(peak) / 1024


@pytest.fixture(scope="module")
def strange():
    return odd_images()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.mark.slow
def test_each_image_has_its_own_result_and_memory_is_bounded(strange, model, tmp_path):
    assert len(strange) >= 200
    order = list(strange)
    random.Random(0).shuffle(order)
    odd, small = tmp_path / "odd", tmp_path / "small"
    odd.mkdir()
    small.mkdir()
    names = {f"{number:03} {name}": name for number, name in enumerate(order)}
    for file_name, name in names.items():
        (odd / file_name).write_bytes(strange[name])
        (small / f"{file_name}.png").write_bytes(encode_as("png"))
    _, status, _, baseline_mib = run_predict(model, small)
    assert status == 0
    results, status, errors, peak_mib = run_predict(model, odd)
    assert status == 1
    assert peak_mib - baseline_mib < MAX_EXTRA_MIB
    assert set(results) == set(names)

    predictor = load(model)
    decoded = set()
    for file_name, name in names.items():
        record = results[file_name]
        try:
            single = predictor(strange[name])
        except BadImageError as error:
            reason = str(error)
        else:
            reason = ""
            assert record["label"] == single.label, name
            probabilities = tuple(item["probability"] for item in record["top"])
            assert probabilities == pytest.approx([probability for _, probability in single.top], abs=1e-4), name
            decoded.add(probabilities)
        assert record.get("error", "") == reason
        assert not reason or f"{file_name}: {reason}" in errors
    num_decoded = sum("label" in record for record in results.values())
    assert 100 < num_decoded < len(strange) - 100
    assert len(decoded) == num_decoded  # so results of different images cannot be confused


def test_truncated_images_are_errors(strange):
    for data in (data for name, data in strange.items() if name.startswith("cut")):
        with pytest.raises(BadImageError):
            decode(data)


def test_unusual_but_valid_images_are_decoded(strange):
    for name, data in strange.items():
        if (
            name.split()[0].split(".")[0]
            in ("mode", "dot", "tall", "wide", "frames", "trailing", "twice", "in", "group3", "group4")
            and name != "frames cut.webp"
        ):
            assert decode(data).ndim == 3, name


def test_the_interlaced_png_is_interlaced():
    """Check the Adam7 writer of the tests with Pillow; otherwise the truncated ones would prove nothing."""
    data = interlaced()
    assert Image.open(BytesIO(data)).info["interlace"] == 1
    assert decode(data).shape == (60, 90, 3)


def test_a_lossless_webp_is_bounded_only_by_the_pixel_limit():
    data = lossless_of_size(10_000, 9_999)
    with pytest.raises(BadImageError, match="claims 10,000 x 9,999 pixels, more than 10 megapixels"):
        decode(data, max_pixels=10_000_000)
    assert decode(encode(noisy_image(), "WEBP", lossless=True)).shape == (60, 90, 3)
