"""MAUVE and the discriminator on texts of known kind."""

import numpy as np
import pytest
from scipy.special import beta

from experiments.judging.realness import SCALING, mauve, mauve_of_shares, told_apart
from fisher_jax.util.errors import UserError

RNG = np.random.default_rng(0)


def test_mauve_of_alike_and_of_disjoint_shares_is_the_analytic_value():
    p = np.array([0.2, 0.5, 0.3])
    assert mauve_of_shares(p, p) == pytest.approx(1, abs=1e-6)
    apart = mauve_of_shares(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    # the curve is ((1 - w)^c, w^c), its area c B(c + 1, c)
    assert apart == pytest.approx(SCALING * beta(SCALING + 1, SCALING), rel=1e-3)


def test_mauve_of_two_coins_is_its_integral():
    p, q = np.array([0.9, 0.1]), np.array([0.6, 0.4])
    w = np.linspace(1e-6, 1 - 1e-6, 400_001)
    r = w[:, None] * p + (1 - w[:, None]) * q
    x = np.exp(-SCALING * (q * np.log(q / r)).sum(1))
    y = np.exp(-SCALING * (p * np.log(p / r)).sum(1))
    inner = np.sum((x[:-1] - x[1:]) * (y[:-1] + y[1:]) / 2)
    # left and right of the curve that mixtures draw, to (0, 1) and (1, 0), straight lines
    outer = x[-1] * (1 + y[-1]) / 2 + (1 - x[0]) * y[0] / 2
    assert mauve_of_shares(p, q) == pytest.approx(inner + outer, rel=1e-4)
    assert mauve_of_shares(p, q) == pytest.approx(mauve_of_shares(q, p), rel=1e-4)


def test_mauve_falls_as_features_part():
    real = RNG.standard_normal((200, 8)) + 2
    near, far = RNG.standard_normal((200, 8)) + 2, RNG.standard_normal((200, 8)) - 2
    half = np.concatenate([near[:100], far[:100]])
    values = [mauve(real, own) for own in (near, half, far)]
    assert values[0] > 0.8 > values[1] > 0.1 > values[2]
    assert mauve(real, near) == values[0]  # the same seed
    with pytest.raises(UserError, match="at least 20 texts of each kind, got 5"):
        mauve(real, near[:5])


def words(n, alphabet):
    return [" ".join("".join(RNG.choice(list(alphabet), 4)) for _ in range(8)) for _ in range(n)]


def test_a_discriminator_tells_what_differs_and_not_what_is_alike():
    prompts = [f"p{i // 2}" for i in range(60)]  # two texts a prompt: they stay in one fold
    alike = told_apart(words(60, "abcd"), words(60, "abcd"), prompts)
    assert alike.low < 0.5 < alike.high
    differing = told_apart(words(60, "abcd"), words(60, "abce"), prompts)
    assert differing.low > 0.9 and differing.value <= differing.high <= 1
    with pytest.raises(UserError, match="needs 5 prompts, got 1"):
        told_apart(["a"], ["b"], ["p"])
