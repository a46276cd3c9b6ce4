"""Tiny random models, rows and options to fine-tune with, and the loss by hand."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fisher_jax.models.embed import TokenizedRows
from fisher_jax.models.load import LanguageModel
from fisher_jax.training.finetune import TrainOptions
from tests.helpers.random_models import VOCAB, random_model


def language_model(name="llama"):
    return LanguageModel("tiny", random_model(name), None, "weights", "tokenizer")


def random_rows(n=20, most=14, seed=0, prompt=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2 + prompt, most, n)
    ids = [rng.integers(VOCAB, size=k).astype(np.int32) for k in lengths]
    return TokenizedRows.after(ids, 1 + prompt)


def options(**changes):
    given = {"sequences": 4, "sequence_length": 16, "learning_rate": 0.01, "epochs": 2, "rank": 2}
    return TrainOptions(**given | changes)


@nnx.jit
def apart(module, ids_NxT):
    return module(ids_NxT)


def nll_by_hand(model, rows):
    """Sum over counted tokens, each row in a sequence of its own, in float64."""
    total = 0.0
    head = np.asarray(model.module.head, np.float64)
    padded = np.zeros((len(rows.ids), 16), np.int32)  # on the right, which no row sees
    for k, ids in enumerate(rows.ids):
        padded[k, : len(ids)] = ids
    hidden_NxTxD = np.asarray(apart(model.module, jnp.asarray(padded)), np.float64)
    for hidden, ids, learnt in zip(hidden_NxTxD, rows.ids, rows.learnt, strict=True):
        logits = hidden[: len(ids) - 1] @ head.T
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total -= log_p[np.arange(len(ids) - 1), ids[1:]][learnt[1:]].sum()
    return total
