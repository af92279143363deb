"""Numbers of things in words."""


def count_text(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 step` or `1,200 steps`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
