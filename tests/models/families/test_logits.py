"""Hidden states and logits of every family."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fisher_jax.models.files.huggingface import load_folder
from fisher_jax.models.generate import generate_ids
from tests.helpers.families import LAYERS, VARIANTS, VOCAB, WINDOW, random_module, raw_config
from tests.helpers.random_models import save_random_reference

LENGTHS = (5, 2 * WINDOW + 3, 48)


def states(module, ids_BxT):
    return np.asarray(nnx.jit(lambda module, ids: module(ids))(module, jnp.asarray(ids_BxT)))


def random_ids(n_rows, length):
    return np.random.default_rng(0).integers(3, VOCAB, (n_rows, length), dtype=np.int32)


@pytest.mark.parity
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_match_transformers(tmp_path, variant):
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    raw = raw_config(variant)
    sizes = AutoConfig.for_model(raw.pop("model_type"), **raw)
    reference = AutoModelForCausalLM.from_config(sizes, attn_implementation="eager")
    save_random_reference(reference, tmp_path)
    module, _ = load_folder(tmp_path, jnp.float32)
    for length in LENGTHS:  # below and beyond the window
        ids = random_ids(2, length)
        with torch.no_grad():
            expected = reference(torch.tensor(ids).long()).logits.numpy()
        logits = states(module, ids) @ np.asarray(module.head).T
        if module.logit_cap is not None:
            logits = module.logit_cap * np.tanh(logits / module.logit_cap)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.parametrize("variant", ["mistral", "gemma3", "smollm3", "olmo2"])
def test_a_state_depends_on_what_is_before_it_only(variant):
    module = random_module(variant)
    ids = random_ids(1, 12)
    changed = ids.copy()
    changed[0, 7] = 3 + (ids[0, 7] + 1) % 90
    before, after = states(module, ids), states(module, changed)
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert (np.abs(after - before)[0, 7:].max(axis=-1) > 1e-4).all()
    short = states(module, ids[:, :9])
    np.testing.assert_allclose(before[:, :9], short, rtol=0, atol=1e-4)


def test_windows_of_all_layers_reach_no_further_than_their_sum():
    module = random_module("mistral")
    ids = random_ids(1, 48)
    changed = ids.copy()
    changed[0, 2] = 3 + (ids[0, 2] + 1) % 90
    moved = np.abs(states(module, changed) - states(module, ids))[0].max(axis=-1)
    reach = 2 + LAYERS * (WINDOW - 1)
    assert (moved[2 : reach + 1] > 0).all()
    assert (moved[reach + 1 :] == 0).all()


@pytest.mark.parametrize("variant", ["mistral", "gemma2", "gemma3", "smollm3"])
def test_decoding_is_the_forward_pass_step_by_step(variant):
    module = random_module(variant)
    prompts = [row.tolist() for row in random_ids(2, 11)]
    prompts[1] = prompts[1][:4]
    generated = generate_ids(module, prompts, max_new_tokens=12)  # past the window
    for prompt, new in zip(prompts, generated, strict=True):
        whole = np.asarray([[*prompt, *new.tolist()]], np.int32)
        hidden = states(module, whole)[0, len(prompt) - 1 : -1]
        assert (hidden @ np.asarray(module.head).T).argmax(axis=-1).tolist() == new.tolist()
