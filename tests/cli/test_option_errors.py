"""Lists with commas, errors of values, and suggestions that fit."""

import importlib
import operator
import re

import pytest
from PIL import Image

from resnetlab.cli.main import UsageError, main, parse
from resnetlab.extension import did_you_mean


def options_of(command, *words):
    return parse(importlib.import_module(f"resnetlab.cli.{command}").Options, command, words)


def help_of(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


def error_of(command, *words):
    with pytest.raises(UsageError) as caught:
        options_of(command, *words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "words", "field", "values"),
    [
        ("study", ("--depths", "20,56"), "depths", (20, 56)),
        ("study", ("--depths=20,56",), "depths", (20, 56)),
        ("study", ("--depths", "20,", "56", "--seeds", "2"), "depths", (20, 56)),
        ("study", ("--arms", "plain,residual"), "arms", ("plain", "residual")),
        ("study", ("--train-images", "50,500,0"), "train_images", (50, 500, 0)),
        ("study", ("--train_images", "50,500"), "train_images", (50, 500)),
        ("study", ("--data", "digits,cifar10"), "data", ("digits", "cifar10")),
        ("study", ("--set", "milestones=0.5,0.75"), "set", ("milestones=0.5,0.75",)),
        ("study", ("--set=milestones=0.5,0.75",), "set", ("milestones=0.5,0.75",)),
        ("inspect", ("m.pth", "--mean", "0.5,0.4,0.3"), "card.mean", (0.5, 0.4, 0.3)),
        ("inspect", ("m.pth", "--classes", "tench, Tinca tinca"), "card.classes", ("tench, Tinca tinca",)),
        ("deepen", ("m", "--blocks", "3,4,6,3"), "blocks", (3, 4, 6, 3)),
        ("evaluate", ("m", "--shorter-sides", "224,256"), "shorter_sides", (224, 256)),
        ("predict", ("m", "a,b.jpg"), "paths", ("a,b.jpg",)),
    ],
)
def test_values_may_be_separated_by_commas(command, words, field, values):
    assert operator.attrgetter(field)(options_of(command, *words)) == values


def test_an_existing_path_with_a_comma_stays_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats,dogs").mkdir()
    assert options_of("study", "--data", "cats,dogs").data == ("cats,dogs",)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ("--lr", "abc"), "--lr must be a number, not 'abc'"),
        ("train", ("--lr=abc",), "--lr must be a number, not 'abc'"),
        ("train", ("--lr",), "--lr has no value; it must be a number"),
        ("train", ("--seed", "1.5"), "--seed must be a whole number, not '1.5'"),
        ("train", ("--keep", "first"), "--keep must be last or best, not 'first'"),
        ("study", ("--depths", "20,x"), "--depths must be whole numbers, not 'x'"),
        ("inspect", ("m", "--std", "a"), "--std must be numbers, not 'a'"),
        ("predict", ("m", "--backend", "tf"), "--backend must be auto, torch, onnxruntime or openvino, not 'tf'"),
    ],
)
def test_an_invalid_value_is_named_with_its_option(command, words, message):
    assert error_of(command, *words).startswith(message)


@pytest.mark.parametrize(
    ("command", "word", "hint"),
    [
        ("train", "--optimizer", "it is a field of the recipe: --set optimizer=…"),
        ("train", "--weight-decay=5e-4", "it is a field of the recipe: --set weight_decay=…"),
        ("study", "--batch-size", "it is a field of the recipe: --set batch_size=…"),
        ("train", "--pretrained", "did you mean --from?"),
        ("train", "--learning-rate", "did you mean --lr?"),
        ("train", "--epoch", "did you mean --epochs?"),
        ("train", "--num-workers", "did you mean --workers?"),
        ("predict", "--topk", "did you mean --top?"),
        ("predict", "--optimizer", None),
        ("predict", "--pretrained", None),
        ("train", "--wd", None),
        ("train", "--zoom", None),
    ],
)
def test_a_suggestion_fits_or_is_left_out(command, word, hint):
    message = error_of(command, *(["m"] if command == "predict" else []), word, "3")
    assert (hint is None) == ("; did you" not in message and "; it is" not in message)
    assert hint is None or hint in message


@pytest.mark.parametrize("command", ["train", "study", "plan", "doctor", "lr_find"])
def test_images_without_their_option_are_recognised(command):
    assert error_of(command, "photos").startswith(f"{command} has no argument 'photos'; did you mean --data photos?")


def test_other_arguments_are_no_images():
    assert error_of("inspect", "m.pth", "photos").startswith("inspect has no argument 'photos'; see")
    assert error_of("models", "resnet18", "photos").startswith("models has no argument 'photos'; see")


def test_suggested_options_exist(capsys):
    for command in ("train", "study", "predict", "evaluate", "export", "serve", "data", "doctor"):
        kind = importlib.import_module(f"resnetlab.cli.{command}").Options
        for word in ("--weights", "--gpu", "--pretrained", "--output", "--model-file", "--img-size", "--json2"):
            words = ["check", "digits"] if command == "data" else ["m"] if command not in ("train", "study") else []
            try:
                parse(kind, command, [*words, word, "3"])
            except UsageError as error:
                for name in re.findall(r"did you mean --([a-z-]+)\?", str(error)):
                    assert f"--{name} " in help_of(command, capsys), (command, word)


def test_names_that_do_not_resemble_are_not_suggested():
    assert did_you_mean("vanish", ["degradation", "vanishing"]) == "; did you mean vanishing?"
    assert did_you_mean("imagenet", ["image-size", "digits"]) == ""
    assert did_you_mean("pretrained", ["train-images"]) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "--preset", "vanish"], "did you mean vanishing?"),
        (["study", "--arms", "plane"], "did you mean plain?"),
        (["train", "--data", "digits", "--recipe", "cifar"], "did you mean cifar-paper?"),
        (["train", "--data", "imagenet"], "give the folder that holds train/ or ILSVRC/"),
        (["train", "--data", "ILSVRC2012"], "give the folder that holds train/ or ILSVRC/"),
        (["train", "--data", "photo"], "did you mean photos?"),
        (["train", "--data", "photos/train/church"], "it looks like one class of photos: give that folder"),
        (["data", "check", "photos/val/dog"], "it looks like one class of photos: give that folder"),
        (["data", "check", "flat/church"], "it looks like one class of flat: give that folder"),
        (
            ["predict", "README.md", "photos"],
            "README.md: cannot be read as safetensors, since it is a text file; give a model file",
        ),
        (
            ["evaluate", "README.md"],
            "README.md: cannot be read as safetensors, since it is a text file; give a model file",
        ),
        (["train", "--data", "digits", "--from", "README.md"], "since it is a text file; give a model file"),
    ],
)
def test_a_mistaken_name_is_answered_with_what_works(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in (
        "photos/train/church",
        "photos/train/dog",
        "photos/val/church",
        "photos/val/dog",
        "flat/church",
        "flat/a",
    ):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    (tmp_path / "README.md").write_text("# a text\n" * 20)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("resnetlab: ")]) == 1


def test_fit_names_what_it_needs():
    import resnetlab

    for value in ("digits", {"data": "digits"}, None):
        with pytest.raises(resnetlab.ConfigError, match=r"config must be a RunConfig, not .*DataConfig"):
            resnetlab.fit(value)  # pyright: ignore[reportArgumentType]
    config = resnetlab.RunConfig(
        resnetlab.model_config("resnet20"), resnetlab.DataConfig("digits"), resnetlab.recipe("digits")
    )  # the advice of the message
    assert config.data.name == "digits"


@pytest.mark.parametrize(("kills", "words"), [(1, "killed once"), (2, "killed 2 times")])
def test_kills_are_counted_in_words(kills, words, monkeypatch, capsys):
    monkeypatch.setattr("resnetlab.cli.verify_resume.train", lambda options, out: None)
    monkeypatch.setattr("resnetlab.cli.verify_resume.kill_after", lambda options, out, step: step)
    monkeypatch.setattr("resnetlab.training.run_files.compare_runs.run_differences", lambda one, other: [])
    assert main(["verify-resume", "--kills", str(kills)]) == 0
    assert capsys.readouterr().out.strip().endswith(words)
