"""The recipe for states of PyTorch gives those that the library computes itself."""

import numpy as np
import pytest

import fisher_jax as fj
from tests.helpers.cli import write_rows
from tests.helpers.code_blocks import ROOT, blocks_of


@pytest.mark.parity
def test_states_of_transformers_are_those_of_embed(llama_folder, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.eos_token = "mind"
    tokenizer.save_pretrained(llama_folder)
    rows = [
        {"prompt": "to be ", "completion": "or not to be"},
        {"prompt": "that is the ", "completion": "question"},
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    (recipe,) = [
        block.text for block in blocks_of(ROOT / "docs/states.md") if "torch" in block.text
    ]
    exec(recipe.replace("my-model", str(llama_folder)), {})
    states = fj.TokenEmbeddings.load("states.safetensors")
    assert states.lengths.tolist() == [5, 2]  # the end of a row is learnt
    expected = fj.embed(rows, str(llama_folder), normalize="none")
    np.testing.assert_array_equal(states.offsets, expected.offsets)
    scale = np.abs(expected.tokens).max()
    np.testing.assert_allclose(states.tokens, expected.tokens, atol=2e-3 * scale)
