"""Runs of the preset `everywhere`: architectures other than ResNet, shallow and deep, with and without the addition."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.config import ConfigError, DataConfig, Precision, Recipe, RunConfig
from resnetlab.study.results import Run
from resnetlab.training.recipes import RECIPES, change_recipe


@dataclass(frozen=True)
class ArchitectureSetting:
    """The two depths of an architecture in the study, and its recipe."""

    title: str
    """Name of the architecture in reports."""
    shallow: int
    deep: int
    changes: Mapping[str, Any]
    """Fields of the recipe `digits` that differ."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of the networks."""
        return change_recipe(RECIPES["digits"], self.changes)


# Depths, lengths and learning rates were selected on training and validation error, for runs of a few seconds on one
# thread (docs/log.md): SGD as in `digits` where it works; the Transformer needs AdamW and a warm-up.
ARCHITECTURE_SETTINGS: dict[str, ArchitectureSetting] = {
    "mlp": ArchitectureSetting("Deep MLP", 8, 32, {"epochs": 10, "batch_size": 32}),
    "vgg": ArchitectureSetting("VGG", 10, 58, {"epochs": 5, "batch_size": 32}),
    "conv1d": ArchitectureSetting("1-D convolutions", 8, 50, {"epochs": 8, "batch_size": 32}),
    "transformer": ArchitectureSetting(
        "Transformer encoder",
        10,
        50,
        {
            "epochs": 6,
            "batch_size": 32,
            "lr": 0.002,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "schedule": "linear",
            "warmup_epochs": 2.0,
        },
    ),
}
"""Architecture to its setting, in the order of the report."""


@dataclass(frozen=True)
class ArchitectureGrid:
    """Runs on digits: every architecture at two depths, plain and residual, with every seed.

    Raises:
        ConfigError: for a number of seeds below 1, or a length that no recipe can have.
    """

    num_seeds: int = 3
    length: Mapping[str, Any] = field(default_factory=dict)
    """`epochs` or `steps` of every run, in place of those of the settings."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ConfigError(f"seeds is the number of repetitions and must be at least 1, not {self.num_seeds}")
        for name in ARCHITECTURE_SETTINGS:
            self._recipe(name)

    def runs(self) -> list[RunConfig]:
        """Return all configurations, deepest first: long runs start first, so that all cores finish together."""
        settings = ARCHITECTURE_SETTINGS.items()
        networks = [(name, depth) for name, setting in settings for depth in (setting.shallow, setting.deep)]
        networks.sort(key=lambda network: -network[1])
        return [
            self._run(ArchitectureConfig(name, depth, residual), seed)
            for name, depth in networks
            for seed in range(self.num_seeds)
            for residual in (False, True)
        ]

    def identity_init_pairs(self) -> Iterator[tuple[RunConfig, RunConfig]]:
        """Yield nothing: these networks are not deepened."""
        yield from ()

    def expected(self, run: Run) -> RunConfig | None:
        """Return the configuration of a run with the settings of this grid; `None` for a ResNet."""
        architecture = run.config.architecture
        if architecture is None:
            return None
        config = self._run(architecture, run.seed)
        return replace(config, model=run.config.model, own_model=run.config.own_model)

    @staticmethod
    def options_of(run: Run) -> list[str]:
        """Return the options of the command that give a run its length and precision, if it has not the usual ones."""
        assert run.architecture is not None
        own, usual = run.config.recipe, ARCHITECTURE_SETTINGS[run.architecture].recipe
        words = [] if own.epochs == usual.epochs else ["--epochs", str(own.epochs)]
        words = words if own.steps is None else ["--steps", str(own.steps)]
        return [*words, *([] if run.config.precision == "fp32" else ["--precision", run.config.precision])]

    def _run(self, architecture: ArchitectureConfig, seed: int) -> RunConfig:
        return RunConfig(
            architecture=architecture,
            data=DataConfig("digits"),
            recipe=self._recipe(architecture.name),
            seed=seed,
            precision=self.precision,
            layout="contiguous",
            compile="off",
        )

    def _recipe(self, name: str) -> Recipe:
        return change_recipe(ARCHITECTURE_SETTINGS[name].recipe, self.length)
