"""Properties that hold for every input: decoding, message framing, index parsing and configuration JSON."""

import asyncio
import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resnetlab.config import ConfigError, ModelConfig, Preprocessing, Recipe, RunConfig
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.data.shards.format import read_index
from resnetlab.serialization import differences, from_json, to_json
from resnetlab.serving.ipc import encode_message, read_message, receive_message

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
headers = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


@pytest.fixture(scope="module")
def encoded():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    files = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files[kind] = file.getvalue()
    return files


@quick
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data):
    try:
        pixels = decode(data)
    except BadImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


@quick
@given(
    kind=st.sampled_from(("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
    position=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    length=st.floats(0, 1),
)
def test_a_changed_or_cut_image_is_decoded_or_refused(encoded, kind, position, value, length):
    data = bytearray(encoded[kind])
    data[int(position * len(data))] = value
    message = ""
    try:
        pixels = decode(bytes(data[: max(1, int(length * len(data)))]), max_pixels=10_000)
    except BadImageError as error:
        pixels, message = None, str(error)
    if pixels is None:
        assert "\n" not in message
        return
    assert pixels.shape[2] == 3
    assert pixels.shape[0] * pixels.shape[1] <= 10_000


@quick
@given(messages=st.lists(st.tuples(headers, st.binary(max_size=50)), max_size=4))
def test_messages_survive_framing(messages):
    stream = b"".join(encode_message(header, payload) for header, payload in messages)
    file = io.BytesIO(stream)
    assert [read_message(file) for _ in messages] == messages
    assert read_message(file) is None

    async def receive():
        reader = asyncio.StreamReader()
        reader.feed_data(stream)
        reader.feed_eof()
        return [await receive_message(reader) for _ in messages]

    assert asyncio.run(receive()) == messages


@quick
@given(header=headers, payload=st.binary(max_size=50), length=st.floats(0, 1, exclude_max=True))
def test_a_cut_message_is_the_end(header, payload, length):
    message = encode_message(header, payload)
    assert read_message(io.BytesIO(message[: int(length * len(message))])) is None


index_fields = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(("resnetlab shards 1", "resnetlab shards 2", 1, None)),
        "classes": json_values,
        "splits": json_values | st.dictionaries(st.sampled_from(("train", "val")), json_values, max_size=2),
        "left_out": json_values,
        "warnings": json_values,
    },
)


@quick
@given(text=st.text(max_size=40) | index_fields.map(json.dumps) | json_values.map(json.dumps))
def test_any_index_is_read_or_refused(text):
    try:
        classes, message = read_index(text, "shards/index.json").classes, ""
    except ConfigError as error:
        classes, message = (), str(error)
    assert isinstance(classes, tuple)
    assert not message or message.startswith("shards/index.json")
    assert "\n" not in message


recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 500),
    batch_size=st.integers(2, 4096),
    lr=st.floats(1e-6, 10),
    momentum=st.floats(0, 0.999),
    weight_decay=st.floats(0, 1),
    schedule=st.sampled_from(("constant", "step", "linear", "cosine", "plateau")),
    flip=st.booleans(),
    jitter=st.floats(0, 1),
)
models = st.builds(
    ModelConfig,
    stage_blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    stage_channels=st.tuples(st.integers(1, 64), st.integers(1, 64)).map(sorted).map(tuple),  # option A drops none
    shortcut=st.sampled_from(("none", "pad", "project", "project_all")),
    num_classes=st.integers(1, 1000),
)


@quick
@given(model=models, recipe=recipes, seed=st.integers(0, 2**31))
def test_configurations_survive_json(model, recipe, seed):
    config = RunConfig(model, recipe=recipe, seed=seed)
    copy = from_json(RunConfig, json.loads(json.dumps(to_json(config))))
    assert copy == config
    assert differences(config, copy) == []
    assert differences(config, dataclasses.replace(config, seed=seed + 1)) == [f"seed: {seed} -> {seed + 1}"]


@quick
@given(kind=st.sampled_from((RunConfig, Recipe, ModelConfig, Preprocessing)), values=json_values)
def test_any_json_is_a_configuration_or_refused(kind, values):
    try:
        config = from_json(kind, values)
    except (ConfigError, TypeError):  # TypeError: a required field is missing
        return
    assert isinstance(config, kind)
