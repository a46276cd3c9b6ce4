"""A model, pools and outputs of the command `fisher-select`, for its tests."""

import json

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save_file

import fisher_jax as fj

# one shape for most runs, texts and ready embeddings alike: each other shape is a compilation
N, M, D, K = 8, 4, 8, 3
EARLIER = b"an earlier result\n"


def write_embeddings(path, lengths=(M,) * N, dim=D, seed=0):
    """Ready embeddings of rows of these lengths, as a file and as arrays."""
    tokens = np.random.default_rng(seed).standard_normal((sum(lengths), dim), dtype=np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    save_file({"tokens": tokens, "offsets": offsets}, path)
    return fj.TokenEmbeddings(tokens, offsets)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(seed=0, n=N, words=M + 1):
    letters = np.random.default_rng(seed).choice(list("abcdefghijklmnopqrstuvwxyz"), (n, words))
    return [" ".join(row) for row in letters]


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ranking_of(out):
    return pq.read_table(out.with_name(out.name + ".report") / "ranking.parquet").to_pydict()


def manifest_of(out):
    path = out.with_name(out.name + ".report") / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))


def page_of(out):
    return (out.with_name(out.name + ".report") / "report.html").read_text(encoding="utf-8")


def snapshot(folder):
    """Everything below a folder, hidden and temporary files too."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def leave_earlier_results(out):
    from fisher_jax.report import FILES  # brings matplotlib

    report = out.with_name(out.name + ".report")
    report.mkdir()
    for path in (out, *(report / name for name in FILES)):
        path.write_bytes(EARLIER)


def save_llama(folder):
    """A one-layer Llama with a letter a token and random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0} | {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz", 1)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.save_pretrained(folder)
    config = {
        "model_type": "llama",
        "vocab_size": len(vocab),
        "hidden_size": D,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 2 * D,
        "max_position_embeddings": 32,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens": (len(vocab), D),
        "model.norm": (D,),
        f"{layer}input_layernorm": (D,),
        f"{layer}post_attention_layernorm": (D,),
        f"{layer}self_attn.q_proj": (D, D),
        f"{layer}self_attn.k_proj": (D // 2, D),
        f"{layer}self_attn.v_proj": (D // 2, D),
        f"{layer}self_attn.o_proj": (D, D),
        f"{layer}mlp.gate_proj": (2 * D, D),
        f"{layer}mlp.up_proj": (2 * D, D),
        f"{layer}mlp.down_proj": (D, 2 * D),
    }
    rng = np.random.default_rng(0)
    weights = {
        f"{name}.weight": rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    return folder
