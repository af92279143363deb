"""Where option A put its zero channels: what the weights themselves say."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from resnetlab.config import ModelConfig
from resnetlab.models.importing.key_formats import Placement

CLEAR = 40.0
"""A score beyond this speaks for itself. It was right in all 7 networks that reached it: split in the two published
CIFAR-10 networks (56, 127), appended in 20 layers after 1,500 steps on CIFAR-10 (-118) and 56 layers on digits (-89 to
-113). Short runs stay within 36; where there is no sign (plain networks, channels shuffled 200 times) the standard
deviation is 4 to 11, and 37 the most (docs/log.md)."""


def infer_zero_channels(state: Mapping[str, Tensor], config: ModelConfig) -> tuple[Placement | None, float]:
    """Return where the weights say the zero channels are, if they say so clearly, and the score.

    Channels that a shortcut feeds and channels that only the branches feed come to differ in training: in scale and
    shift of the branches' last BN, in how strongly the next blocks read them. The score is the difference of two log
    likelihoods, in nats, above 0 where these numbers are told apart better by half of the zero channels in front and
    half behind than by all of them behind. Each number is taken for normal, with a mean and a deviation of its own in
    each of the two groups.
    """
    score = 0.0
    for numbers, fed in _stages(state, config):
        zeros = numbers.shape[1] - fed
        if zeros < 2 or fed < 2:
            continue
        front = zeros // 2
        score += _apart(numbers, slice(front, front + fed)) - _apart(numbers, slice(0, fed))
    if not abs(score) >= CLEAR:  # NaN too
        return None, score
    return ("split" if score > 0 else "append"), score


def _stages(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[Tensor, int]]:
    """Yield, for each stage whose first shortcut pads, numbers of its channels and how many the shortcut feeds.

    The numbers have shape (kinds, channels): of the first block scale, shift and the norm of the last kernel; the mean
    over the other blocks of scale, shift, and the norm of what they read the channel with.
    """
    last = 2 if config.block == "basic" else 3
    fed = config.stage_channels[0]
    for stage, (count, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True), start=1):
        blocks = [f"layer{stage}.{position}" for position in range(count)]
        if inner * config.expansion > fed:
            rows = [*_written(state, blocks[0], last), state[f"{blocks[0]}.conv{last}.weight"].flatten(1).norm(dim=1)]
            if count > 1:
                written = [
                    torch.stack(_written(state, block, last)) for block in blocks[1:] if _written(state, block, last)
                ]
                rows += list(torch.stack(written).mean(0)) if written else []
                read = [state[f"{block}.conv1.weight"].transpose(0, 1).flatten(1).norm(dim=1) for block in blocks[1:]]
                rows.append(torch.stack(read).mean(0))
            yield torch.stack(rows).double(), fed
        fed = inner * config.expansion


def _written(state: Mapping[str, Tensor], block: str, last: int) -> list[Tensor]:
    """Return scale and shift of what a block's branch puts out; only the bias where there is no BN."""
    if f"{block}.bn{last}.weight" in state:
        return [state[f"{block}.bn{last}.weight"].abs(), state[f"{block}.bn{last}.bias"]]
    return [state[f"{block}.conv{last}.bias"]]


def _apart(numbers: Tensor, fed: slice) -> float:
    """Return the log likelihood of numbers in two groups, but for what any two groups have alike."""
    inside = torch.zeros(numbers.shape[1], dtype=torch.bool)
    inside[fed] = True
    total = 0.0
    for group in (numbers[:, inside], numbers[:, ~inside]):
        variance = (
            group.var(dim=1, correction=0) + 1e-12
        )  # equal numbers, as in a fresh BN, are no evidence of anything
        total -= group.shape[1] / 2 * float(variance.log().sum())
    return total
