"""Numbers of things in words."""


def count_text(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 step`, `1,200 steps` or `10 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural * (count != 1)}"
