"""Infer from trained weights whether option A appended its zero channels or split them."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from resnetlab.config import ModelConfig, block_properties
from resnetlab.models.importing.key_formats import ZeroChannels

CLEAR_SCORE = 40.0
"""Least absolute score that decides. It was right for all 7 networks that reached it: split in the two published
CIFAR-10 networks (56, 127), appended in 20 layers after 1,500 steps on CIFAR-10 (-118) and in 56 layers on digits (-89
to -113). Short runs stay within 36. Without evidence (plain networks, channels shuffled 200 times), the standard
deviation is 4 to 11 and the largest score 37 (docs/log.md)."""


def infer_zero_channels(state: Mapping[str, Tensor], config: ModelConfig) -> tuple[ZeroChannels | None, float]:
    """Return the position of the zero channels, `None` if the weights do not show it clearly, and the score.

    In training, channels with an input from the shortcut become different from those with inputs from the branches
    only: in scale and shift of the branches' last BN, and in how strongly the next blocks read them. The score is the
    difference of two log likelihoods, in nats: zero channels half in front and half behind, minus all behind. Each
    statistic is modelled as normal, with its own mean and deviation in each of the two groups.
    """
    score = 0.0
    for statistics, fed in _stage_statistics(state, config):
        zeros = statistics.shape[1] - fed
        if zeros < 2 or fed < 2:
            continue
        front = zeros // 2
        score += _log_likelihood(statistics, slice(front, front + fed)) - _log_likelihood(statistics, slice(0, fed))
    if not abs(score) >= CLEAR_SCORE:  # also for NaN
        return None, score
    return ("split" if score > 0 else "append"), score


def _stage_statistics(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[Tensor, int]]:
    """Yield the channel statistics of each stage whose first shortcut pads, and the number of channels it feeds.

    The statistics have shape (kinds, channels). Those of the first block are scale, shift and the norm of the last
    kernel. Those of the other blocks, averaged, are scale, shift, and the norm of the weights that read the channel.
    """
    last = block_properties(config.block).num_convs
    fed = config.stem_width
    for stage, (count, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True), start=1):
        blocks = [f"layer{stage}.{position}" for position in range(count)]
        if inner * config.expansion > fed:
            first_kernel = state[f"{blocks[0]}.conv{last}.weight"].flatten(1).norm(dim=1)
            rows = [*_output_affine(state, blocks[0], last), first_kernel]
            if count > 1:
                affine = [torch.stack(_output_affine(state, block, last)) for block in blocks[1:]]
                rows += list(torch.stack(affine).mean(0))
                read = [state[f"{block}.conv1.weight"].transpose(0, 1).flatten(1).norm(dim=1) for block in blocks[1:]]
                rows.append(torch.stack(read).mean(0))
            yield torch.stack(rows).double(), fed
        fed = inner * config.expansion


def _output_affine(state: Mapping[str, Tensor], block: str, last: int) -> list[Tensor]:
    """Return scale and shift of the output of a block's branch; only the bias if it has no BN."""
    if f"{block}.bn{last}.weight" in state:
        return [state[f"{block}.bn{last}.weight"].abs(), state[f"{block}.bn{last}.bias"]]
    return [state[f"{block}.conv{last}.bias"]]


def _log_likelihood(statistics: Tensor, fed: slice) -> float:
    """Return the log likelihood of statistics in two groups, without the terms that every grouping shares."""
    inside = torch.zeros(statistics.shape[1], dtype=torch.bool)
    inside[fed] = True
    total = 0.0
    for group in (statistics[:, inside], statistics[:, ~inside]):
        # the small constant: equal numbers, as in an untrained BN, are no evidence
        variance = group.var(dim=1, correction=0) + 1e-12
        total -= group.shape[1] / 2 * float(variance.log().sum())
    return total
