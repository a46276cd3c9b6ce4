"""How near written texts are to real ones, as sets: MAUVE, and a classifier that tells them apart.

Neither compares two texts, so neither has an order to be biased by.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import integrate, special
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

from experiments.judging.judge import Rate
from fisher_jax.util.errors import UserError

SCALING = 5.0  # c of MAUVE
EXPLAINED = 0.9  # of the features' variance that is clustered
MIXTURES = 1000  # points of the divergence curve
FOLDS = 5
RESAMPLES = 1000


def mauve(
    real_NxD: Float[np.ndarray, "N D"], written_KxD: Float[np.ndarray, "K D"], seed: int = 0
) -> float:
    """MAUVE of Pillutla et al. (arXiv 2102.01454): 1 where both sets of texts are alike, down to 0.

    Features of all texts, of unit length, are projected to the principal directions with 90% of
    their variance and clustered by k-means, k a tenth of the smaller set. See `mauve_of_shares`.

    Args:
        real_NxD: features of real texts, such as a language model's last state of each.
        written_KxD: of written ones.
        seed: of k-means.

    Raises:
        UserError: fewer than 20 texts of a kind.
    """
    fewest = min(len(real_NxD), len(written_KxD))
    if fewest < 20:
        raise UserError(f"MAUVE needs at least 20 texts of each kind, got {fewest}: write more")
    k = round(fewest / 10)
    both = normalize(np.concatenate([real_NxD, written_KxD]).astype(np.float64))
    both = PCA(EXPLAINED, svd_solver="full").fit_transform(both)
    means = KMeans(k, n_init=5, max_iter=500, random_state=seed)  # pyright: ignore
    clusters = means.fit_predict(both)
    real, written = np.split(clusters, [len(real_NxD)])
    p, q = (np.bincount(own, minlength=k) / len(own) for own in (real, written))
    return mauve_of_shares(p, q)


def mauve_of_shares(p_K: Float[np.ndarray, "K"], q_K: Float[np.ndarray, "K"]) -> float:
    """The area under `(exp(-c KL(q | r)), exp(-c KL(p | r)))`, `r = w p + (1 - w) q`, w in (0, 1).

    c = 5. Of shares that have nothing in common it is `c B(c + 1, c)`, 0.004: the least there is.
    """
    w = np.linspace(0, 1, MIXTURES + 2)[1:-1, None]
    r = w * p_K + (1 - w) * q_K
    x, y = (np.exp(-SCALING * special.rel_entr(one, r).sum(axis=1)) for one in (q_K, p_K))
    x, y = np.concatenate([[1.0], x, [0.0]]), np.concatenate([[0.0], y, [1.0]])
    return float(-integrate.trapezoid(y, x))


def told_apart(
    real: Sequence[str], written: Sequence[str], prompts: Sequence[str], seed: int = 0
) -> Rate:
    """The area under the ROC curve of a classifier on its unseen texts: 0.5 if it can't tell them.

    Logistic regression on tf-idf of 1 to 4 characters, cross-fitted in five folds by prompt; the
    interval by a bootstrap over prompts.

    Args:
        real: continuations of the prompts.
        written: as many by a model, of the same prompts in the same order.
        prompts: of both.
        seed: of the bootstrap.

    Raises:
        UserError: fewer prompts than folds.
    """
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    if len(number) < FOLDS:
        raise UserError(f"a discriminator needs {FOLDS} prompts, got {len(number)}: write more")
    texts = [*real, *written]
    is_written = np.repeat([0, 1], len(real))
    group = np.array([number[prompt] for prompt in prompts] * 2)
    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, lowercase=False),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        score = cross_val_predict(
            classifier,
            np.array(texts, object),
            is_written,
            groups=group,
            cv=GroupKFold(FOLDS),
            method="decision_function",
        )
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(group == g) for g in range(len(number))]
    areas = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([places[g] for g in rng.integers(len(places), size=len(places))])
        areas.append(roc_auc_score(is_written[drawn], score[drawn]))
    low, high = np.quantile(areas, [0.025, 0.975])
    return Rate(float(roc_auc_score(is_written, score)), float(low), float(high))
