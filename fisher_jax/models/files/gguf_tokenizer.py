"""The tokenizer that a GGUF's metadata describe, built without torch."""

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from fisher_jax.models.errors import ModelError
from fisher_jax.models.families.family import Metadata

_SPECIAL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _words(digits: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_WORDS % digits), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only])


# tokenizer.ggml.pre: how text is cut before byte-pair merges
_PRE_TOKENIZERS = {
    "gpt-2": _byte_level,
    "smollm": _digits,
    "starcoder": _digits,
    "llama-bpe": lambda: _words("{1,3}"),
    "qwen2": lambda: _words(""),
}


def gguf_tokenizer(file: Metadata) -> Callable[..., Any]:
    """The byte-pair tokenizer that the metadata describes, `tokenizer.ggml.pre` included."""
    kind, pre = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; "
            "use the model's Hugging Face folder"
        )
    tokens = file.field("tokenizer.ggml.tokens")
    types = file.field("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = [tuple(merge.split(" ", 1)) for merge in file.field("tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    try:
        bpe = models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the Rust library raises plain Exception
        raise ModelError(
            f"{file.path}: its tokenizer is broken ({error}): download it anew"
        ) from None
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _SPECIAL
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(t, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _USER_DEFINED
        ]
    )
    named = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        i = file.field(f"tokenizer.ggml.{key}_token_id", None)
        if i is None:
            continue
        if not 0 <= i < len(tokens):
            raise ModelError(
                f"{file.path}: its {key} token {i} is none of its {len(tokens)} tokens: "
                "download it anew"
            )
        named[f"{role}_token"] = tokens[i]
    single = ["$A"]
    if file.field("tokenizer.ggml.add_bos_token", pre == "llama-bpe"):  # llama.cpp's default
        single.insert(0, tokens[file.field("tokenizer.ggml.bos_token_id")])
    if file.field("tokenizer.ggml.add_eos_token", False):
        single.append(tokens[file.field("tokenizer.ggml.eos_token_id")])
    if special := {t for t in single if t != "$A"}:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(t, vocab[t]) for t in special]
        )
    from transformers import PreTrainedTokenizerFast  # slow to import

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=file.field("tokenizer.chat_template", None),
        **named,
    )
