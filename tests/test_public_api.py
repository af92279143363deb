"""The public API: every name documented with its sections, every type in a signature exported, types as annotated."""

import dataclasses
import inspect
import re
import typing
from typing import TYPE_CHECKING, Any, assert_type

import pytest
import torch

import resnetlab

NAMES = [name for name in resnetlab.__all__ if name != "__version__"]
OURS = re.compile(r"\bresnetlab\.[\w.]+\.(\w+)")


def public(name):
    return getattr(resnetlab, name)


def callables():
    """Public functions, constructors and public methods, as (label, function)."""
    for name in NAMES:
        value = public(name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and not issubclass(value, BaseException | torch.nn.Module):
            for member, function in vars(value).items():
                if inspect.isfunction(function) and not member.startswith("_"):
                    yield f"{name}.{member}", function


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_docstring(name):
    text = inspect.getdoc(public(name)) or ""
    assert len(text.split()) >= 5, text
    assert text.splitlines()[0].rstrip().endswith((".", ":", ";", ",")) or "\n" in text
    assert not re.match(r"(Which|What|Where|Whom|How|Of|So)\b", text), text.splitlines()[0]


@pytest.mark.parametrize("name", CALLABLES)
def test_functions_that_raise_say_so(name):
    """A function whose body raises documents it, as do those that take more than three arguments."""
    function = CALLABLES[name]
    text, source = inspect.getdoc(function) or "", inspect.getsource(function)
    assert text, f"{name} has no docstring"
    if re.search(r"^\s+raise \w*Error\(", source, re.MULTILINE):
        assert "Raises:" in text
    if len(inspect.signature(function).parameters) > 4:
        assert "Args:" in text or all(f"`{p}`" in text for p in list(inspect.signature(function).parameters)[-1:])


@pytest.mark.parametrize("name", [n for n in NAMES if dataclasses.is_dataclass(getattr(resnetlab, n))])
def test_fields_have_meanings(name):
    """Every field of a public dataclass is documented below it, or named in the docstring of the class."""
    kind = public(name)
    source, text = inspect.getsource(kind), inspect.getdoc(kind) or ""
    plain = {
        "total_steps",
        "num_steps",
        "num_wrong",
        "num_images",
        "lr",
        "layout",
        "compile",
        "recipe",
        "model",
        "data",
    }
    for field in dataclasses.fields(kind):
        documented = re.search(rf'^    {field.name}: .*(?:\n        .*|\n    \))*\n    """', source, re.MULTILINE)
        assert documented or field.name in text or field.name in plain, f"{name}.{field.name}"


@pytest.mark.parametrize("name", CALLABLES)
def test_at_most_three_positional_arguments(name):
    positional = [
        p
        for p in inspect.signature(CALLABLES[name]).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"
    ]
    assert len(positional) <= 3, [p.name for p in positional]


INTERNAL = {"EncodedImages"}
"""Types of fields that users pass on and do not read: the storage of a split's images."""


def annotated():
    """Public functions, the fields of public dataclasses, and their properties, as (label, what has annotations)."""
    yield from CALLABLES.items()
    for name in NAMES:
        value = public(name)
        if dataclasses.is_dataclass(value):
            yield name, value
        if inspect.isclass(value) and not issubclass(value, BaseException | torch.nn.Module):
            for member, found in vars(value).items():
                getter = getattr(found, "fget", None) or getattr(found, "func", None)  # a property or a cached one
                if getter and not member.startswith("_"):
                    yield f"{name}.{member}", getter


ANNOTATED = dict(annotated())


@pytest.mark.parametrize("name", ANNOTATED)
def test_types_of_signatures_fields_and_properties_are_public(name):
    """A class of ours that a public name takes or returns is exported, so that users can name it."""
    scope = {n: public(n) for n in NAMES} | {"Generator": torch.Generator}
    hints = typing.get_type_hints(ANNOTATED[name], localns=scope)
    words = " ".join(str(hint) for hint in hints.values())
    unknown = {found for found in OURS.findall(words) if found not in resnetlab.__all__} - INTERNAL
    assert not unknown


def test_fields_and_properties_are_walked():
    assert {"RuntimeOptions", "ArmComparison", "Study.table", "LesionResult"} <= ANNOTATED.keys()


def test_help_is_a_contents_page():
    text = resnetlab.__doc__
    assert text is not None
    listed = set(re.findall(r"\w+", text))
    assert {name for name in NAMES if name not in listed} == set()


def test_every_name_can_be_loaded():
    assert [name for name in NAMES if public(name) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = resnetlab.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_types_are_as_annotated():
    config = assert_type(resnetlab.model_config("resnet8", num_classes=4), resnetlab.ModelConfig)
    model = assert_type(resnetlab.build_model(config), resnetlab.ResNet)
    assert_type(resnetlab.cost(model, 16), resnetlab.Cost)
    assert_type(resnetlab.recipe("digits"), resnetlab.Recipe)
    assert_type(model.forward(torch.zeros(1, 3, 16, 16)), torch.Tensor)


if TYPE_CHECKING:  # checked by the type checker, not run

    def types(config: resnetlab.RunConfig, trainer: resnetlab.Trainer, batches: Any) -> None:
        """State the types of calls that take long."""
        result = assert_type(resnetlab.fit(config, "runs/a", callbacks=[resnetlab.Callback()]), resnetlab.TrainResult)
        assert_type(result.model, resnetlab.ResNet)
        assert_type(result.card, resnetlab.ModelCard)
        assert_type(trainer.fit(), resnetlab.TrainResult)
        assert_type(trainer.train_step(batches), resnetlab.StepMetrics)
        assert_type(trainer.state_dict(), dict[str, Any])
        assert_type(resnetlab.evaluate("model.safetensors", "photos"), resnetlab.Evaluation)
        assert_type(resnetlab.load("model.safetensors"), resnetlab.Predictor)
        assert_type(resnetlab.open_data(config.data), resnetlab.Dataset)
