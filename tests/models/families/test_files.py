"""Every family in files: exported and read back, and read from a GGUF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fisher_jax.models.decoder.rope import frequencies
from fisher_jax.models.embed import TokenizedRows
from fisher_jax.models.families import all_families, family_of
from fisher_jax.models.files.export import save_folder
from fisher_jax.models.files.gguf_file import GGUFFile
from fisher_jax.models.files.huggingface import load_folder
from fisher_jax.models.load import LanguageModel
from fisher_jax.training.finetune import TrainOptions, finetune
from tests.helpers.families import VARIANTS, random_module
from tests.helpers.family_gguf import write_family
from tests.helpers.gguf_files import write_gguf
from tests.helpers.small_models import (
    assert_same_parameters,
    llama_checkpoint,
    word_tokenizer_files,
)

PAIRS, OFFSET = {"smollm3"}, {"gemma2", "gemma3"}  # what llama.cpp's converter changes
IN_GGUF = ["qwen2", "qwen2 by yarn", "qwen3", "gemma2", "phi3 by longrope", "olmo2"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer_files(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_every_folder_of_a_family_is_found():
    assert {"llama", "gpt2"} | {v.split()[0] for v in VARIANTS} == set(all_families())


@pytest.mark.parametrize("variant", VARIANTS)
def test_exported_model_is_the_same(tmp_path, tokenizer, variant):
    module = random_module(variant)
    save_folder(LanguageModel(variant, module, tokenizer, "", ""), tmp_path / "saved")
    loaded, _ = load_folder(tmp_path / "saved", jnp.float32)
    assert_same_parameters(loaded, module)


@pytest.mark.parametrize("variant", IN_GGUF)
def test_gguf_has_the_model(tmp_path, variant):
    module, path = random_module(variant), tmp_path / "model.gguf"
    family = family_of(module.config)
    name = module.config.family
    write_family(path, module, family.architecture, name in PAIRS, name in OFFSET)
    loaded = GGUFFile(path).model(jnp.float32)
    same = {"context", "norm_eps", "ropes", "windows", "query_width", "embedding_scale"}
    mine, theirs = loaded.config._asdict(), module.config._asdict()
    for key in mine.keys() - same:
        assert mine[key] == theirs[key], key
    leaves = zip(
        jax.tree.leaves(nnx.state(loaded)), jax.tree.leaves(nnx.state(module)), strict=True
    )
    for leaf, expected in leaves:
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-6)
    widths = [(r.theta, r.share, type(r.scaling)) for r in loaded.config.ropes if r is not None]
    assert widths == [(r.theta, r.share, type(r.scaling)) for r in module.config.ropes if r]


def test_ropes_of_smollm3_and_windows_of_gemma3_follow_llama_cpp(tmp_path):
    path = tmp_path / "model.gguf"
    write_family(path, random_module("smollm3"), "smollm3", pairs=True)
    ropes = GGUFFile(path).config().ropes
    assert [rope is None for rope in ropes] == [False, False, False, True]
    write_family(path, random_module("gemma3"), "gemma3", offset=True)
    config = GGUFFile(path).config()
    assert config.windows == (8,) * 4  # the sixth would see all
    assert {rope.theta for rope in config.ropes} == {10000.0}


def test_llama_3s_rope_is_written_out_in_a_gguf(tmp_path):
    factors = np.asarray([1.0, 1.0, 2.0, 3.0, 4.0, 8.0, 8.0, 8.0], np.float32)
    plain = llama_checkpoint(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    extra = [("add_tensor", "rope_freqs.weight", factors)]
    write_gguf(tmp_path / "model.gguf", plain, extra=extra)
    module = GGUFFile(tmp_path / "model.gguf").model(jnp.float32)
    (rope,) = module.config.ropes
    expected = 500.0 ** -(np.arange(0, 16, 2) / 16) / factors
    np.testing.assert_allclose(frequencies(rope, 16), expected, rtol=1e-6)


@pytest.mark.parametrize("variant", ["gemma2", "phi3"])
def test_lora_trains_and_is_merged(tokenizer, variant):
    model = LanguageModel(variant, random_module(variant), tokenizer, "", "")
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 90, 12).astype(np.int32) for _ in range(4)]
    rows = TokenizedRows.after(ids)
    options = TrainOptions(learning_rate=0.02, epochs=8, sequences=2, sequence_length=24, rank=4)
    trained = finetune(model, rows, options)
    assert trained.losses[-1] < 0.9 * trained.losses[0]
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(trained.model.module))]
    assert paths == [path for path, _ in nnx.to_flat_state(nnx.state(model.module))]
