"""Embeddings: the features that the head of a network reads, on any runtime."""

import numpy as np

from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.predictor import BrokenNetworkError, Predictor
from resnetlab.models.model_card import ModelCard


def embed_views(predictor: Predictor, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features and probabilities of a batch that `Predictor.preprocess` made.

    The features are the last feature map averaged over its positions. PyTorch computes the network once; the other
    runtimes compute its convolutions a second time for the probabilities.

    Args:
        predictor: The network.
        views: uint8 (batch, height, width, channels), 0 to 255.

    Returns:
        float32 (batch, channels) as in `num_features`, and float64 (batch, num_classes).

    Raises:
        BrokenNetworkError: Features or probabilities are not finite.
        ConfigError: The engine is ONNX Runtime and the package onnx is not installed.
    """
    engine = predictor.engine
    features = engine.feature_maps(views).mean((2, 3), dtype=np.float64).astype(np.float32)
    logits = engine.head(features) if isinstance(engine, TorchEngine) else engine.logits(views)
    if not np.isfinite(features).all():
        raise BrokenNetworkError(f"{predictor.card.model.name} gives features that are not finite")
    return features, predictor.probabilities_of(logits)


def num_features(card: ModelCard) -> int:
    """Return the number of features of an image: the channels of the last stage."""
    return card.model.stage_channels[-1] * card.model.expansion
