"""Named studies, each made to show one thing that can be wrong with depth. No torch here."""

from dataclasses import dataclass

from resnetlab.config import ConfigError, Norm


@dataclass(frozen=True)
class Preset:
    """What a study is unless options say otherwise; its own verdict is its name."""

    name: str
    shows: str
    """One sentence for people."""
    depths: tuple[int, ...] = (20, 56)
    arms: tuple[str, ...] = ("plain", "residual")
    epochs: int | None = None
    """Length of each run; the recipe's if neither this nor `steps` is given."""
    steps: int | None = None
    norm: Norm = "batch"
    init_scale: float = 1.0
    train_images: tuple[int | None, ...] = (None,)
    """Sizes of the training set; `None` is all of it."""
    constructs: bool = False
    """Also deepen the shallow plain network by identity layers."""
    may_diverge: bool = False
    """Runs that end in NaN are what it shows, not a failure."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "degradation",
            "deeper plain networks fit their own training set worse, and a shortcut cures it",
            constructs=True,
        ),
        # Without BN, fan-out initialisation shrinks the signal by 0.9 in every layer and by half in the first of each
        # wider stage. Eight layers still learn in ten epochs (docs/log.md), 44 and 56 cannot be reached.
        Preset(
            "vanishing",
            "without normalisation, with small initial weights, no gradient reaches a deep network",
            depths=(8, 44, 56),
            arms=("plain",),
            epochs=10,
            norm="none",
            init_scale=0.9,
        ),
        # Twice the deviation: 256 times the signal through 8 layers, which still learn, and 10^16 through 56.
        Preset(
            "exploding",
            "without normalisation, with large initial weights, the first step throws all weights away",
            depths=(8, 44, 56),
            arms=("plain",),
            norm="none",
            init_scale=2.0,
            may_diverge=True,
        ),
        Preset(
            "overfitting",
            "a deep network on 50 images fits them and errs on others; on all of them it does not",
            arms=("residual",),
            steps=300,
            train_images=(50, None),
        ),
    )
}


def preset_of(name: str | None) -> Preset:
    """Return a preset by its name; the default study, which is `degradation`, for `None`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name is not None and name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; known: {', '.join(PRESETS)}")
    return PRESETS[name or "degradation"]
