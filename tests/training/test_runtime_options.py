"""Options of a run from Python are checked as those of the command are."""

import math

import pytest

from resnetlab import RuntimeOptions
from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"checkpoint_steps": 0}, "checkpoint_steps must be at least 1, not 0"),
        ({"loss_steps": 0}, "loss_steps must be at least 1, not 0"),
        ({"keep_states_epochs": 0}, r"keep_states_epochs \(--keep-states\) must be at least 1, not 0"),
        ({"checkpoint_s": -1.0}, r"checkpoint_s \(--checkpoint-seconds\) must be at least 0, not -1"),
        ({"checkpoint_s": math.nan}, "must be at least 0, not nan"),
        ({"cache_gib": 0}, "cache-gib must be a number above 0, not 0"),
        ({"cache_gib": math.inf}, "cache-gib must be a number above 0, not inf"),
        ({"track": "wandb"}, "track 'wandb' is unknown; known: tensorboard"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RuntimeOptions(**values)


@pytest.mark.parametrize("options", [{"track": "tensorboard"}, {"keep_states_epochs": 1}, {"checkpoint_steps": 5}])
def test_an_option_that_writes_files_needs_a_run_directory(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"^{name} needs a run directory; name one with fit"):
        fit(RunConfig(model_config("resnet8")), options=RuntimeOptions(**options))
