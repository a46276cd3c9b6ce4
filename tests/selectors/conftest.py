"""What rules need beside embeddings, for the small pool."""

import numpy as np
import pytest
from scipy.special import softmax

import fisher_jax as fj
from tests.helpers.references import DIM, N

L = 9


@pytest.fixture(scope="session")
def p(emb):
    """A model that is sure of some tokens and of others not: its probabilities (T, L)."""
    theta = np.random.default_rng(2).standard_normal((DIM, L)) * 2
    return softmax(emb.tokens.astype(np.float64) @ theta, axis=1)


@pytest.fixture(scope="session")
def extras(p, theta):
    """By name, all that any rule needs."""
    rng = np.random.default_rng(1)
    return {
        "losses": rng.uniform(0, 5, N),
        "quality": rng.uniform(0, 1, N),
        "ifd": rng.uniform(0.5, 1.5, N),
        "el2n": rng.uniform(0, 1.4, N),
        "gradient_norm": rng.uniform(0, 9, N),
        "uncertainty": rng.uniform(0, 3, N),
        "weights": 1 - np.sum(p**2, axis=1),
        "probabilities": p,
        "theta": theta,
        "targets": fj.TokenEmbeddings(
            rng.standard_normal((3, DIM)).astype(np.float32), np.arange(4)
        ),
    }


@pytest.fixture(scope="session")
def choose(emb, extras):
    """Calls a rule by name with what it needs."""

    def call(name, told=extras, **kwargs):
        rule = fj.SELECTORS[name]
        return rule(emb, **kwargs, **{k: told[k] for k in rule.needs})

    return call
