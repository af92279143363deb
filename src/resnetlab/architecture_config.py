"""Configuration of an architecture other than a ResNet: its name, its depth, and whether it has the addition."""

from dataclasses import dataclass

from resnetlab.serialization import at_least, check


@dataclass(frozen=True)
class DepthRule:
    """The depths of an architecture: `per_block` * n + `others` layers with weights, n at least 1."""

    per_block: int
    """Layers with weights that one more block, or one more block in each stage, adds."""
    others: int
    """Layers with weights outside the blocks."""

    def num_blocks(self, depth: int) -> int:
        """Return n for a depth; 0 if the depth does not fit."""
        n, rest = divmod(depth - self.others, self.per_block)
        return n if n >= 1 and rest == 0 else 0


ARCHITECTURES: dict[str, DepthRule] = {
    "mlp": DepthRule(per_block=2, others=2),
    "vgg": DepthRule(per_block=6, others=4),
    "conv1d": DepthRule(per_block=2, others=2),
    "transformer": DepthRule(per_block=4, others=2),
}
"""The architectures of `models/architectures` by name."""


@dataclass(frozen=True)
class ArchitectureConfig:
    """A network of `models/architectures`; plain and residual networks differ only in `residual`.

    Raises:
        ConfigError: if a value is outside the range given at its field.
    """

    name: str = "mlp"
    """A key of `ARCHITECTURES`."""
    depth: int = 20
    """Layers with weights on the main path, biases and normalisation not counted."""
    residual: bool = True
    """Whether each block computes x + F(x) instead of F(x). The addition has no weights."""
    in_channels: int = 1
    """Channels of the images, at least 1."""
    image_size: int = 8
    """Side of the images in pixels, at least 8 and a multiple of 4."""
    num_classes: int = 10
    """Number of classes, at least 2."""

    def __post_init__(self) -> None:
        known = ", ".join(ARCHITECTURES)
        check(self.name in ARCHITECTURES, f"architecture {self.name!r} is unknown; choose one of: {known}")
        rule = ARCHITECTURES[self.name]
        first = rule.per_block + rule.others
        check(
            self.num_blocks > 0,
            f"depth {self.depth} of {self.name} is not of the form {rule.per_block}n+{rule.others}; "
            f"use {first}, {first + rule.per_block}, …",
        )
        at_least(1, self, "in_channels")
        at_least(2, self, "num_classes")
        size_fits = self.image_size >= 8 and self.image_size % 4 == 0
        check(size_fits, f"image_size must be at least 8 and a multiple of 4, not {self.image_size}")

    @property
    def num_blocks(self) -> int:
        """Number of blocks; of `vgg`, in each of its three stages."""
        return ARCHITECTURES[self.name].num_blocks(self.depth)

    @property
    def arm(self) -> str:
        """The arm of the experiment: `plain` or `residual`."""
        return "residual" if self.residual else "plain"
