"""Runs of architectures other than ResNet: built from the configuration, recorded, killed and resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file

import resnetlab
from helpers.killed_runs import killed_at_step
from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.config import ConfigError, RunConfig, read_config
from resnetlab.serialization import differences, from_json, to_json
from resnetlab.study.results import read_run
from resnetlab.training.runtime_options import RuntimeOptions

CONFIG = RunConfig(
    architecture=ArchitectureConfig("transformer", 6),
    recipe=resnetlab.recipe("digits", steps=12, batch_size=8),
    compile="off",
)


def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    options = RuntimeOptions(checkpoint_steps=4, resume=True)
    whole = resnetlab.fit(CONFIG, tmp_path / "whole", options=options)
    assert killed_at_step(CONFIG, tmp_path / "killed", 7, options) == 9
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    resnetlab.fit(CONFIG, tmp_path / "killed", options=options)
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert first.keys() == whole.model.state_dict().keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    done = resnetlab.fit(CONFIG, tmp_path / "killed", options=options)
    assert all(torch.equal(first[key], value) for key, value in done.model.state_dict().items())


def test_a_run_is_read_with_its_architecture(tmp_path):
    resnetlab.fit(CONFIG, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert (run.architecture, run.arm, run.depth, run.network) == (
        "transformer",
        "residual",
        6,
        "transformer-residual-6",
    )
    assert run.start["params"] == sum(p.numel() for p in load_file(tmp_path / "run" / "weights.safetensors").values())
    assert run.config.own_model == "resnetlab.models.architectures.transformer.Transformer"
    other = RunConfig(architecture=ArchitectureConfig("transformer", 6, residual=False), recipe=CONFIG.recipe)
    with pytest.raises(ConfigError, match=r"architecture\.residual: True -> False"):
        resnetlab.fit(other, tmp_path / "run", options=RuntimeOptions(resume=True))


def test_the_trainer_builds_the_network_too():
    trainer = resnetlab.Trainer(CONFIG)
    assert sum(p.numel() for p in trainer.model.parameters()) == sum(
        p.numel() for p in resnetlab.Trainer(CONFIG).model.parameters()
    )
    assert type(trainer.model.module).__name__ == "Transformer"


def test_files_of_other_runs_stay_as_they_were(tmp_path):
    assert "architecture" not in to_json(RunConfig())
    (tmp_path / "config.json").write_text(json.dumps(to_json(CONFIG)))
    assert read_config(tmp_path / "config.json") == CONFIG
    assert from_json(RunConfig, to_json(RunConfig())) == RunConfig()


def test_a_network_of_another_kind_is_a_difference():
    for first, second in ((RunConfig(), CONFIG), (CONFIG, RunConfig())):
        assert any(change.startswith("architecture: ") for change in differences(first, second))


def test_one_network_only():
    with pytest.raises(ConfigError, match="model and the configuration's architecture exclude each other"):
        resnetlab.fit(CONFIG, model=torch.nn.Flatten())
    with pytest.raises(ConfigError, match="architecture must be ArchitectureConfig, not 'mlp'"):
        RunConfig(architecture="mlp")  # pyright: ignore[reportArgumentType]
