"""Some hundreds of strange images at once: each keeps its own answer, and none takes the process or its memory."""

import json
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from helpers.odd_images import interlaced, lossless_of_size, one, picture, saved, strange_images
from helpers.small_network import model_file
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.inference.predictor import load

MORE_MIB = 64
"""Memory that strange images may take beyond as many small ones."""
WITH_PEAK = """
import sys
from resnetlab.cli.main import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)
sys.exit(status)
"""


def predicted(model: Path, folder: Path) -> tuple[dict[str, dict], int, str, float]:
    """Run the command on a folder; return its answers by name, its status, its errors, and its peak memory in MiB."""
    command = [sys.executable, "-c", WITH_PEAK, "predict", str(model), str(folder), "--json", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    *errors, peak = done.stderr.splitlines()
    answers = {Path(said["path"]).name: said for said in map(json.loads, done.stdout.splitlines())}
    return answers, done.returncode, "\n".join(errors), int(peak) / 1024


@pytest.fixture(scope="module")
def strange():
    return strange_images()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.mark.slow
def test_each_has_its_own_answer_and_memory_stays_small(strange, model, tmp_path):
    assert len(strange) >= 200
    order = list(strange)
    random.Random(0).shuffle(order)
    odd, small = tmp_path / "odd", tmp_path / "small"
    odd.mkdir()
    small.mkdir()
    names = {f"{number:03} {name}": name for number, name in enumerate(order)}
    for named, name in names.items():
        (odd / named).write_bytes(strange[name])
        (small / f"{named}.png").write_bytes(one("png"))
    _, status, _, baseline_mib = predicted(model, small)
    assert status == 0
    answers, status, errors, peak_mib = predicted(model, odd)
    assert status == 1
    assert peak_mib - baseline_mib < MORE_MIB
    assert set(answers) == set(names)

    predictor = load(model)
    good = set()
    for named, name in names.items():
        said = answers[named]
        try:
            alone = predictor(strange[name])
        except BadImageError as error:
            reason = str(error)
        else:
            reason = ""
            assert said["label"] == alone.label, name
            found = tuple(item["probability"] for item in said["top"])
            assert found == pytest.approx([probability for _, probability in alone.top], abs=1e-4), name
            good.add(found)
        assert said.get("error", "") == reason
        assert not reason or f"{named}: {reason}" in errors
    num_good = sum("label" in said for said in answers.values())
    assert 100 < num_good < len(strange) - 100
    assert len(good) == num_good  # no answer could be mistaken for another's


def test_what_is_cut_short_is_an_error(strange):
    for data in (data for name, data in strange.items() if name.startswith("cut")):
        with pytest.raises(BadImageError):
            decode(data)


def test_what_is_only_odd_is_seen(strange):
    for name, data in strange.items():
        if (
            name.split()[0].split(".")[0]
            in ("mode", "dot", "tall", "wide", "frames", "trailing", "twice", "in", "group3", "group4")
            and name != "frames cut.webp"
        ):
            assert decode(data).ndim == 3, name


def test_an_interlaced_png_is_one():
    """The test's own writer of Adam7, against Pillow's reader: or the cut ones would prove nothing."""
    data = interlaced()
    assert Image.open(BytesIO(data)).info["interlace"] == 1
    assert decode(data).shape == (60, 90, 3)


def test_a_lossless_webp_is_bounded_by_the_limit_alone():
    data = lossless_of_size(10_000, 9_999)
    with pytest.raises(BadImageError, match="claims 10,000 x 9,999 pixels, more than 10 megapixels"):
        decode(data, max_pixels=10_000_000)
    assert decode(saved(picture(), "WEBP", lossless=True)).shape == (60, 90, 3)
