"""Preset studies: each demonstrates one failure of deep networks, or compares blocks that differ in one thing."""

from dataclasses import dataclass

from resnetlab.config import ConfigError, Norm
from resnetlab.extension import did_you_mean


@dataclass(frozen=True)
class Preset:
    """Default settings of a study; the name of a failure is the verdict that it should end in."""

    name: str
    description: str
    """The effect that the study demonstrates, in one sentence."""
    depths: tuple[int, ...] = (20, 56)
    arms: tuple[str, ...] = ("plain", "residual")
    num_seeds: int = 3
    epochs: int | None = None
    """Length of each run; the recipe's own if neither this nor `steps` is given."""
    steps: int | None = None
    norm: Norm = "batch"
    init_scale: float = 1.0
    train_images: tuple[int | None, ...] = (None,)
    """Sizes of the training set; `None` uses all images."""
    identity_init: bool = False
    """Also deepen the shallow plain network by identity layers."""
    may_diverge: bool = False
    """Runs that end in NaN are the expected effect and do not count as failures."""
    architectures: bool = False
    """Train the networks of `architecture_grid`, which have depths and recipes of their own."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="degradation",
            description="deeper plain networks fit their own training set worse, and shortcuts cure it",
            arms=("plain", "plain-capped", "residual"),
            identity_init=True,
        ),
        # Without BN, fan-out initialisation shrinks the signal by 0.9 in every layer and by half in the first layer of
        # each wider stage. Eight layers still learn in ten epochs (docs/log.md); 44 and 56 layers get no gradient.
        Preset(
            name="vanishing",
            description="without normalisation and with small initial weights, no gradient reaches a deep network",
            depths=(8, 44, 56),
            arms=("plain",),
            epochs=10,
            norm="none",
            init_scale=0.9,
        ),
        # Twice the standard deviation: the signal grows 256 times through 8 layers, which still learn, and 10^16 times
        # through 56.
        Preset(
            name="exploding",
            description="without normalisation and with large initial weights, the first step destroys all weights",
            depths=(8, 44, 56),
            arms=("plain",),
            norm="none",
            init_scale=2.0,
            may_diverge=True,
        ),
        Preset(
            name="overfitting",
            description="few images: a network fits 50 but errs on unseen ones; with all images it does not",
            arms=("residual",),
            steps=300,
            train_images=(50, None),
        ),
        # Five seeds: with six comparisons of arms, Holm's correction needs more than three for a moderate difference.
        Preset(
            name="shortcuts",
            description="zero-padding (A), projections where shapes differ (B) or everywhere (C), and none: Table 3",
            depths=(20,),
            arms=("plain", "A", "B", "C"),
            num_seeds=5,
        ),
        # Where BN and ReLU stand around the addition. Published differences grow with depth; 56 layers take two cores
        # about three minutes.
        Preset(
            name="preactivation",
            description="BN and ReLU before the convolutions, or around the addition (He et al., 2016)",
            depths=(56,),
            arms=("residual", "preact", "no-last-relu", "bn-after-addition"),
        ),
        Preset(
            name="everywhere",
            description="the addition in networks other than ResNet: MLP, VGG, 1-D convolutions, Transformer",
            depths=(),
            architectures=True,
        ),
    )
}


def get_preset(name: str | None) -> Preset:
    """Return a preset by name; `None` gives the default, `degradation`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name is not None and name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; known: {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    return PRESETS[name or "degradation"]
