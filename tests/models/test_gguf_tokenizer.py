"""The tokenizer of a GGUF: pre-tokenizers, ids, special tokens."""

import json

import pytest
from tokenizers import ByteLevelBPETokenizer

from fisher_jax.models.files.gguf_file import GGUFFile
from fisher_jax.models.load import _smollm2_file
from tests.helpers.gguf_files import (
    ALPHABET,
    NORMAL,
    Vocabulary,
    byte_vocabulary,
    write_gguf,
    write_tokenizer,
)
from tests.helpers.small_models import assert_model_error, gpt2_checkpoint

PIECES = {  # by hand, from the splitting rules of each pre-tokenizer
    "12345": {
        "gpt-2": ["12", "34", "5"],
        "smollm": ["1", "2", "3", "4", "5"],
        "qwen2": ["1", "2", "3", "4", "5"],
        "llama-bpe": ["12", "3", "4", "5"],  # 123, 45
    },
    "x 12": {
        "gpt-2": ["x", "Ġ", "12"],
        "smollm": ["x", "Ġ", "1", "2"],
        "qwen2": ["x", "Ġ", "1", "2"],
        "llama-bpe": ["x", "Ġ", "12"],
    },
    "a\n\nb": {
        "gpt-2": ["a", "Ċ", "Ċ", "b"],
        "smollm": ["a", "Ċ", "Ċ", "b"],
        "qwen2": ["a", "ĊĊ", "b"],
        "llama-bpe": ["a", "ĊĊ", "b"],
    },
    "a!\n": {
        "gpt-2": ["a", "!", "Ċ"],
        "smollm": ["a", "!", "Ċ"],
        "qwen2": ["a", "!Ċ"],
        "llama-bpe": ["a", "!Ċ"],
    },
    "I'M": {
        "gpt-2": ["I", "'", "M"],
        "smollm": ["I", "'", "M"],
        "qwen2": ["I", "'M"],
        "llama-bpe": ["I", "'M"],
    },
    "I'm": {pre: ["I", "'m"] for pre in ("gpt-2", "smollm", "qwen2", "llama-bpe")},
    "word": {
        "gpt-2": ["w", "o", "r", "d"],
        "smollm": ["w", "o", "r", "d"],
        "qwen2": ["w", "o", "r", "d"],
        "llama-bpe": ["word"],  # a whole piece that is a token needs no merges
    },
}
MERGES = ["3 4", "1 2", "Ċ Ċ", "! Ċ", "' M", "' m"]


@pytest.fixture(scope="module")
def smollm2_tokenizer():
    return GGUFFile(_smollm2_file()).tokenizer()


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "starcoder", "qwen2", "llama-bpe"])
def test_pre_tokenizers_cut_as_their_rules_say(tmp_path, pre):
    vocabulary = byte_vocabulary(MERGES, whole=["word"], pre=pre, add_bos=False)
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    for text, pieces in PIECES.items():
        ids = tokenizer(text)["input_ids"]
        expected = pieces["smollm" if pre == "starcoder" else pre]
        assert [vocabulary.tokens[i] for i in ids] == expected, text
        assert tokenizer.decode(ids) == text


def test_gpt2_ids_equal_an_independent_tokenizer(tmp_path, sentences):
    independent = ByteLevelBPETokenizer()
    independent.train_from_iterator(sentences[:2000], vocab_size=600, show_progress=False)
    state = json.loads(independent.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(pair) for pair in state["merges"]]
    vocabulary = Vocabulary(tokens, merges, [NORMAL] * len(tokens))
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    texts = [
        *sentences[2000:2200],
        "In 1999,  two\n\n\tspaces",
        "Où ça? 你好 🎭",
        "we'll WE'LL",
        " ",
    ]
    ids = tokenizer(texts)["input_ids"]
    assert ids == [independent.encode(text).ids for text in texts]
    assert max(map(max, ids)) > len(ALPHABET)


@pytest.mark.parametrize(
    ("pre", "add_bos", "has_bos"),
    [
        ("gpt-2", True, True),
        ("gpt-2", False, False),
        ("gpt-2", None, False),
        ("llama-bpe", False, False),
        ("llama-bpe", None, True),  # llama.cpp's default for this family
    ],
)
def test_add_bos_token_is_honoured(tmp_path, pre, add_bos, has_bos):
    bos = len(ALPHABET) + 1
    vocabulary = byte_vocabulary(special=["<s>"], pre=pre, bos=bos, add_bos=add_bos)
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    a = ALPHABET.index("a")
    assert tokenizer("a")["input_ids"] == [bos] * has_bos + [a]
    assert tokenizer("a", add_special_tokens=False)["input_ids"] == [a]
    assert tokenizer.bos_token == "<s>"


def test_add_eos_token_is_honoured(tmp_path):
    vocabulary = byte_vocabulary(special=["<s>"], pre="gpt-2")
    eos = vocabulary.tokens.index("<s>")
    path = tmp_path / "model.gguf"
    extra = [("add_eos_token_id", eos), ("add_add_eos_token", True)]
    write_gguf(path, gpt2_checkpoint(), vocabulary=vocabulary, extra=extra)
    assert GGUFFile(path).tokenizer()("a")["input_ids"] == [ALPHABET.index("a"), eos]


def test_add_bos_token_without_its_id_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(add_bos=True))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "tokenizer.ggml.bos_token_id")


def test_a_special_token_that_is_none_of_the_tokens_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(bos=10_000))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "bos token 10000 is none of its")


def test_special_and_user_defined_tokens_are_single_ids(tmp_path):
    vocabulary = byte_vocabulary(special=["<|end|>"], user_defined=["<tool>"])
    tokenizer = write_tokenizer(tmp_path / "model.gguf", vocabulary)
    end, tool = len(ALPHABET) + 1, len(ALPHABET) + 2
    ids = tokenizer("a<tool>b<|end|>")["input_ids"]
    assert ids == [ALPHABET.index("a"), tool, ALPHABET.index("b"), end]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<tool>b"


@pytest.mark.parametrize("pre", ["default", "deepseek-llm"])
def test_unsupported_pre_tokenizer_is_refused(tmp_path, pre):
    path = tmp_path / "model.gguf"
    write_gguf(path, gpt2_checkpoint(), vocabulary=byte_vocabulary(pre=pre))
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, pre)


def test_merge_of_unknown_tokens_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    vocabulary = byte_vocabulary(["a b"])
    vocabulary.tokens[-1] = "ac"
    write_gguf(path, gpt2_checkpoint(), vocabulary=vocabulary)
    assert_model_error(lambda: GGUFFile(path).tokenizer(), path, "tokenizer")


@pytest.mark.parity
def test_smollm2_ids_equal_transformers(smollm2_tokenizer, sentences):
    pytest.importorskip("torch")
    from transformers import AutoTokenizer

    path = _smollm2_file()
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    texts = [text for text in sentences if not any(c.isdigit() for c in text)][::40][:1000]
    assert len(texts) == 1000
    assert smollm2_tokenizer(texts)["input_ids"] == reference(texts)["input_ids"]


def test_smollm2_splits_digits_one_by_one(smollm2_tokenizer):
    ids = smollm2_tokenizer("in 1999, 40x")["input_ids"]
    pieces = ["in", "Ġ", "1", "9", "9", "9", ",", "Ġ", "4", "0", "x"]
    assert smollm2_tokenizer.convert_ids_to_tokens(ids) == pieces


@pytest.mark.parametrize(
    "text",
    [
        "O Romeo, Romeo! wherefore art thou Romeo?",
        "Act 3, scene 1: 1599 lines, 3.14",
        "two  spaces   three\n\nlines\r\n\ttab ",
        " leading , spaced . I 'm n't",
        "naïve café — 你好 🎭 e\u0301",
    ],
)
def test_smollm2_decodes_what_it_encodes(smollm2_tokenizer, text):
    assert smollm2_tokenizer.decode(smollm2_tokenizer(text)["input_ids"]) == text


def test_smollm2_special_tokens_are_single_ids(smollm2_tokenizer):
    ids = smollm2_tokenizer("<|im_start|>user<|im_end|>")["input_ids"]
    pieces = smollm2_tokenizer.convert_ids_to_tokens(ids)
    assert pieces == ["<|im_start|>", "user", "<|im_end|>"]
    assert smollm2_tokenizer.decode(ids, skip_special_tokens=True) == "user"
