"""Random models, prompts and their greedy continuations."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fisher_jax.models.decoder import RotaryConfig, RotaryDecoder
from fisher_jax.models.families.gpt2 import GPT2, GPT2Config
from fisher_jax.models.generate import generate_ids

VOCAB, CONTEXT = 97, 64
MODELS = {
    "llama": (RotaryDecoder, RotaryConfig(VOCAB, 32, 2, 4, 2, 8, 48, CONTEXT)),
    "gpt2": (GPT2, GPT2Config(VOCAB, 32, 2, 4, 48, CONTEXT)),
    "five words": (RotaryDecoder, RotaryConfig(5, 16, 1, 2, 2, 8, 24, CONTEXT, tied=False)),
}
LENGTHS = [3, 17, 1, 8, 8, 5, 16]  # of prompts: on both sides of a padded length
NEW = 12


def random_model(name, dtype=jnp.float32, scale=0.3):
    family, config = MODELS[name]
    graph, state = nnx.split(nnx.eval_shape(lambda: family(config, dtype=dtype, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale, x.shape), dtype), state)
    return nnx.merge(graph, weights)


def random_prompts(lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [rng.integers(VOCAB, size=length).tolist() for length in lengths]


@nnx.jit
def all_logits(model, ids_BxT):
    return jnp.matmul(
        model(ids_BxT), model.head.T, precision="highest", preferred_element_type=jnp.float32
    )


def next_logits(model, ids):
    """Of the token after `ids`, from the whole forward pass at one shape."""
    padded = np.zeros((1, model.config.context), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(all_logits(model, padded))[0, len(ids) - 1]


def as_lists(rows):
    return [row.tolist() for row in rows]


def greedy(model, prompts, **options):
    return as_lists(generate_ids(model, prompts, max_new_tokens=NEW, **options))
