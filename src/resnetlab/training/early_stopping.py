"""Early stopping as a pure function of past validation errors, so that a resumed run stops at the same epoch.

Source: Prechelt, 1998, "Early stopping - but when?" (criterion UP with strips of one epoch, on the lowest error).
"""

from collections.abc import Sequence


def epochs_without_lower_error(val_errors: Sequence[float]) -> int:
    """Return the number of epochs since the lowest validation error, the first of equals; 0 without any epoch."""
    return len(val_errors) - 1 - val_errors.index(min(val_errors)) if val_errors else 0


def is_stopped_early(val_errors: Sequence[float], early_stop_epochs: int | None) -> bool:
    """Return whether a run ends before its full length.

    Args:
        val_errors: Validation error after each epoch so far, in %.
        early_stop_epochs: Epochs without a lower error after which it ends (`Recipe.early_stop_epochs`); `None` for
            never.
    """
    return early_stop_epochs is not None and epochs_without_lower_error(val_errors) >= early_stop_epochs
