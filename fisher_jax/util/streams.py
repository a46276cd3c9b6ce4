"""Random numbers by name: who draws has a stream of its own, and one seed fixes all of them."""

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator seeded by the seed and by the SHA-256 of the name.

    Two names have independent streams under one seed, so rules that are compared share no draws.
    """
    digest = np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *digest.tolist()])
