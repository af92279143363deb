"""A Transformer encoder on image patches, with the normalisation before each branch (pre-norm)."""

import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.architecture_config import ArchitectureConfig

WIDTH, NUM_HEADS, HIDDEN = 32, 4, 64
PATCH = 2
"""Side of a patch in pixels: an image of digits becomes 16 patches."""


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron; the residual block adds the input of each to its output.

    Without the two additions, attention alone averages the patches until they are equal (Dong et al., 2021, "Attention
    is not all you need: pure attention loses rank doubly exponentially with depth").
    """

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (batch, patches, width) to patches of the same shape."""
        attended = self._attend(self.norm1(x))
        x = x + attended if self.residual else attended
        branch = self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return x + branch if self.residual else branch

    def _attend(self, x: Tensor) -> Tensor:
        batch, patches, _ = x.shape
        heads = self.query_key_value(x).view(batch, patches, 3, NUM_HEADS, WIDTH // NUM_HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (batch, heads, patches, width of a head)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.projection(attended.transpose(1, 2).reshape(batch, patches, WIDTH))


class Transformer(nn.Module):
    """A Transformer encoder of 4n+2 layers: patch embedding, n blocks of four linear layers, head on the mean patch.

    Differs: Dosovitskiy et al. (2021) classify by an additional token and have dropout.
    """

    gain = 1.0

    def __init__(self, config: ArchitectureConfig) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(config.in_channels, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Embedding((config.image_size // PATCH) ** 2, WIDTH)
        self.blocks = nn.Sequential(*(EncoderBlock(residual=config.residual) for _ in range(config.num_blocks)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, size, size) to logits (batch, classes)."""
        patches = self.embedding(images).flatten(2).transpose(1, 2) + self.positions.weight
        return self.head(self.norm(self.blocks(patches)).mean(1))
