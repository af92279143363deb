"""Rejection: an image whose most probable class is not probable enough is answered `unknown`.

Paper: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", 2017.
"""

from resnetlab.serialization import check

UNKNOWN = "unknown"
"""The answer for an image of which no class is probable enough."""


def check_reject_below(threshold: float | None, num_classes: int | None = None) -> None:
    """Raise unless a threshold can reject some images and accept others; `None` rejects nothing.

    Args:
        threshold: The least probability of an accepted class.
        num_classes: Classes of the network, if they are known already.

    Raises:
        ConfigError: If it is not a number between 0 and 1, or so low that no image can be below it; or if the network
            has one class, whose probability is always 1.
    """
    if threshold is None:
        return
    check(0 < threshold < 1, f"reject-below must be above 0 and below 1, not {threshold:g}; for example 0.8")
    check(num_classes != 1, "the probability of a network's only class is always 1; leave out reject-below")
    if num_classes is not None:
        least = 1 / num_classes
        check(
            threshold > least,
            f"reject-below {threshold:g} rejects no image: the most probable of {num_classes} classes has at least "
            f"{least:.3g}; give more than that",
        )
