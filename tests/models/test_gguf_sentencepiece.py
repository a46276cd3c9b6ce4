"""SentencePiece tokenizers of a GGUF, ids by hand."""

import pytest

from fisher_jax.models.files.gguf_file import GGUFFile
from fisher_jax.models.files.gguf_tokenizer import merges_of
from tests.helpers.gguf_files import write_gguf
from tests.helpers.small_models import assert_model_error, gpt2_checkpoint

BYTES = [f"<0x{i:02X}>" for i in range(256)]
LETTERS = ["\u2581", "a", "b", "c"]
MERGED = {"ab": -1.0, "bc": -2.0, "\u2581a": -3.0, "\u2581ab": -4.0, "abc": -5.0}
TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *LETTERS, *MERGED, "\n\n", "\u2581\u2581"]
TYPES = [2, 3, 3, *[6] * 256, *[1] * (len(LETTERS) + len(MERGED)), 4, 4]
SCORES = [0.0] * 259 + [-100.0] * len(LETTERS) + [*MERGED.values()] + [-1000.0] * 2


def tokenizer(path, prefix=True, scores=SCORES):
    extra = [
        ("add_tokenizer_model", "llama"),
        ("add_token_list", TOKENS),
        ("add_token_types", TYPES),
        ("add_token_scores", scores),
        ("add_bos_token_id", 1),
        ("add_eos_token_id", 2),
        ("add_unk_token_id", 0),
        ("add_add_space_prefix", prefix),
    ]
    write_gguf(path, gpt2_checkpoint(), extra=extra)
    return GGUFFile(path).tokenizer()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("abc", ["\u2581ab", "c"]),  # ab first, its score is the highest
        ("bc", ["\u2581", "bc"]),
        ("a  b", ["\u2581a", "\u2581\u2581", "b"]),
        ("a\n\nb", ["\u2581a", "\n\n", "\u2581", "b"]),  # found as it stands
        ("é", ["\u2581", "<0xC3>", "<0xA9>"]),
        ("a</s>", ["\u2581a", "</s>"]),
    ],
)
def test_pieces_are_those_of_the_highest_scores(tmp_path, text, pieces):
    ids = tokenizer(tmp_path / "model.gguf")(text)["input_ids"]
    assert [TOKENS[i] for i in ids] == ["<s>", *pieces]


@pytest.mark.parametrize("prefix", [True, False])
def test_texts_come_back(tmp_path, prefix):
    made = tokenizer(tmp_path / "model.gguf", prefix)
    for text in ("abc cab", "  a", "é 你 b", "a\tb"):
        ids = made(text)["input_ids"]
        assert made.decode(ids, skip_special_tokens=True) == text
    first = made("abc")["input_ids"][1]
    assert TOKENS[first] == ("\u2581ab" if prefix else "abc")


def test_merges_are_in_order_of_scores():
    merges = merges_of(["a", "b", "ab", "aa", "aab"], [-9.0, -9.0, -2.0, -1.0, -3.0])
    assert merges == [("a", "a"), ("a", "b"), ("aa", "b"), ("a", "ab")]


def test_scores_of_another_number_of_tokens_are_refused(tmp_path):
    path = tmp_path / "model.gguf"
    assert_model_error(lambda: tokenizer(path, scores=SCORES[1:]), path, "scores differ")
