import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fisher_jax.models.decoder import attention, project
from fisher_jax.models.files.huggingface import load_folder
from fisher_jax.models.load import SMOLLM2_SHA256
from tests.helpers.random_models import (
    GPT2_SIZES,
    GPT2_VARIANTS,
    LLAMA,
    LLAMA_VARIANTS,
    MODELS,
    VOCAB,
    forward,
    random_ids,
    random_model,
    save_random_reference,
)

pytestmark = pytest.mark.optimised


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    return random_model(request.param)


def assert_same_logits(model, reference, ids_BxT, mask_BxT=True):
    """Within 1e-4 of the logits' standard deviation."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected_BxTxL = reference(torch.tensor(ids_BxT).long()).logits.numpy()
    hidden_BxTxD = forward(model, ids_BxT)
    logits_BxTxL = hidden_BxTxD @ np.asarray(model.head).T
    assert logits_BxTxL.dtype == np.float32
    atol = 1e-4 * expected_BxTxL.std()
    real = np.broadcast_to(np.asarray(mask_BxT, bool), ids_BxT.shape)
    np.testing.assert_allclose(logits_BxTxL[real], expected_BxTxL[real], rtol=0, atol=atol)


@pytest.mark.parity
@pytest.mark.parametrize("variant", LLAMA_VARIANTS)
def test_llama_logits_match_pytorch(tmp_path, variant):
    pytest.importorskip("torch")
    from transformers import LlamaConfig as ReferenceConfig
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM(ReferenceConfig(**LLAMA | LLAMA_VARIANTS[variant]))
    save_random_reference(reference, tmp_path)
    model, _ = load_folder(tmp_path, jnp.float32)
    assert model.config.tied == (variant != "untied")
    assert_same_logits(model, reference, random_ids(2, 160))


@pytest.mark.parity
@pytest.mark.parametrize("variant", GPT2_VARIANTS)
def test_gpt2_logits_match_pytorch(tmp_path, variant):
    pytest.importorskip("torch")
    from transformers import GPT2Config as ReferenceConfig
    from transformers import GPT2LMHeadModel

    reference = GPT2LMHeadModel(ReferenceConfig(**GPT2_SIZES | GPT2_VARIANTS[variant]))
    save_random_reference(reference, tmp_path)
    model, _ = load_folder(tmp_path, jnp.float32)
    assert model.config.tied == (variant != "untied")
    assert_same_logits(model, reference, random_ids(2, 64))  # the whole context


@pytest.mark.parity
def test_smollm2_logits_match_pytorch(smollm2, sentences):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")  # transformers reads a GGUF through it
    from transformers import AutoModelForCausalLM

    from fisher_jax.models.load import _smollm2_file

    path = _smollm2_file()
    reference = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    rows = smollm2.tokenizer(sentences[:40000:10000], padding=True, return_tensors="np")
    assert_same_logits(smollm2.module, reference, rows["input_ids"], rows["attention_mask"])


def test_smollm2_is_the_recorded_model(smollm2):
    assert smollm2.weights_sha256 == SMOLLM2_SHA256
    assert (smollm2.dim, smollm2.context, smollm2.n_parameters) == (576, 8192, 134_515_008)


def test_smollm2_continues_a_sentence(smollm2):
    ids = smollm2.tokenizer("To be, or not to")["input_ids"]
    logits = np.asarray(smollm2.module.head) @ forward(smollm2.module, [ids])[0, -1]
    assert smollm2.tokenizer.decode([logits.argmax()]) == " be"


@pytest.mark.usefixtures("no_rank_promotion")
def test_padding_on_the_right_changes_no_real_position(model):
    ids = random_ids(2, 9)
    padded = np.zeros((3, 16), np.int32)
    padded[:2, :9] = ids
    actual = forward(model, padded)[:2, :9]
    np.testing.assert_allclose(actual, forward(model, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("long_queries", [1024, 4])
def test_a_token_changes_no_state_before_it(model, monkeypatch, long_queries):
    monkeypatch.setattr(attention, "LONG_QUERIES", long_queries)
    ids = random_ids(1, 12)
    changed = ids.copy()
    changed[0, 7] = (ids[0, 7] + 1) % VOCAB
    run = nnx.jit(lambda model, ids: model(ids))
    before, after = np.asarray(run(model, ids)), np.asarray(run(model, changed))
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert (np.abs(after - before)[0, 7:].max(axis=-1) > 1e-4).all()  # and every state after it


@pytest.mark.parametrize("length", [5, 12])
def test_attention_block_by_block_equals_attention_at_once(monkeypatch, length):
    rng = np.random.default_rng(0)
    q_BxTxHxE, k_BxTxGxE, v_BxTxGxE = (
        jnp.asarray(rng.normal(size=(2, length, heads, 8)), jnp.float32) for heads in (4, 2, 2)
    )

    def attend():
        return jax.jit(lambda *args: attention.causal_attention(*args))(
            q_BxTxHxE, k_BxTxGxE, v_BxTxGxE
        )

    at_once = attend()
    monkeypatch.setattr(attention, "LONG_QUERIES", 4)
    np.testing.assert_allclose(attend(), at_once, rtol=0, atol=1e-5)


def test_long_texts_equal_the_short_path(model, monkeypatch):
    ids = random_ids(2, 11)
    short = forward(model, ids)
    monkeypatch.setattr(attention, "LONG_QUERIES", 4)
    np.testing.assert_allclose(forward(model, ids), short, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_close_to_float32(name):
    ids = random_ids(2, 11)
    expected = forward(random_model(name), ids)
    hidden = forward(random_model(name, jnp.bfloat16), ids)
    assert hidden.dtype == jnp.bfloat16
    difference = np.linalg.norm(hidden.astype(np.float32) - expected)
    assert difference < 0.05 * np.linalg.norm(expected)


def test_a_model_computes_in_the_dtype_that_its_weights_are_cast_to(model):
    graph, state = nnx.split(model)
    narrow = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    assert forward(narrow, random_ids(2, 11)).dtype == jnp.bfloat16


@pytest.mark.parametrize("long_queries", [1024, 4])
def test_forward_pass_lowers_in_full_precision_on_all_platforms(model, monkeypatch, long_queries):
    monkeypatch.setattr(attention, "LONG_QUERIES", long_queries)
    graph, state = nnx.split(model)
    function = jax.jit(lambda state, ids: nnx.merge(graph, state)(ids))
    platforms = ["cpu", "cuda", "tpu"]
    ids = jax.ShapeDtypeStruct((2, 10), jnp.int32)
    exported = jax.export.export(function, platforms=platforms)(state, ids)
    assert exported.platforms == tuple(platforms)
    lines = exported.mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert len(products) >= 6
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize(("n_in", "n_out"), [(3, 7), (7, 3), (5, 5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projects_gradients_are_those_of_the_product(n_in, n_out, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 4, n_in), dtype)
    kernel = jax.random.normal(keys[1], (n_in, n_out), dtype)
    weight = jax.random.normal(keys[2], (2, 4, n_out), dtype)

    def gradients(product):
        return jax.grad(lambda x, w: jnp.sum(product(x, w) * weight), (0, 1))(x, kernel)

    own, expected = gradients(project), gradients(jnp.matmul)
    for a, b in zip(own, expected, strict=True):
        assert a.dtype == dtype
        tolerance = 1e-6 if dtype == jnp.float32 else 0.05
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )
