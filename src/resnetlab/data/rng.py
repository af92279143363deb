"""Random number generators: the only function that turns a seed into a generator."""

import hashlib

from torch import Generator


def make_generator(seed: int, *purpose: str | int) -> Generator:
    """Return a CPU generator for one purpose of one run; different purposes never share random numbers."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest) >> 1)
