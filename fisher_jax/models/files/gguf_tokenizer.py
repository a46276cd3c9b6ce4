"""The tokenizer that a GGUF's metadata describe, built without torch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from fisher_jax.models.errors import ModelError
from fisher_jax.models.families.family import Metadata
from fisher_jax.models.files.advice import no_advice

_NORMAL, _UNKNOWN, _SPECIAL, _USER_DEFINED = 1, 2, 3, 4  # tokenizer.ggml.token_type
_SPACE = "\u2581"  # SentencePiece's sign for a space
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (  # words, capitals at their beginning
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|"
)


class Cut(NamedTuple):
    """How text is cut before byte-pair merges.

    Attributes:
        pattern: of the pieces; None for GPT-2's.
        single_digits: whether digits are cut from each other first.
        keeps_tokens: whether a piece that is a token needs no merges.
        adds_begin: llama.cpp's default for adding the token of beginning.
    """

    pattern: str | None = None
    single_digits: bool = False
    keeps_tokens: bool = False
    adds_begin: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """It as a part of a tokenizer."""
        if self.pattern is not None:
            split = pre_tokenizers.Split(Regex(self.pattern), behavior="isolated")
            as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            return pre_tokenizers.Sequence([split, as_bytes])
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if not self.single_digits:
            return gpt2
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt2])


def _words(digits: str) -> str:
    words = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}|"
    return words + _REST % ""


def _cased(endings: str, digits: str) -> str:
    return _CASED % (endings, endings) + rf"\p{{N}}{digits}|" + _REST % "/"


_CUTS = {  # by tokenizer.ggml.pre
    "gpt-2": Cut(),
    "phi-2": Cut(),
    "olmo": Cut(),
    "smollm": Cut(single_digits=True),
    "starcoder": Cut(single_digits=True),
    "llama-bpe": Cut(_words("{1,3}"), keeps_tokens=True, adds_begin=True),
    "llama3": Cut(_words("{1,3}"), keeps_tokens=True, adds_begin=True),
    "smaug-bpe": Cut(_words("{1,3}")),
    "dbrx": Cut(_words("{1,3}")),
    "qwen2": Cut(_words("")),
    "deepseek-r1-qwen": Cut(_words("")),
    "gpt-4o": Cut(_cased(_ENDINGS + "?", "{1,3}")),
    "tekken": Cut(_cased("", ""), keeps_tokens=True, adds_begin=True),
}


def gguf_tokenizer(file: Metadata) -> Callable[..., Any]:
    """The tokenizer: byte-level pairs (`gpt2`) or SentencePiece's (`llama`).

    Raises:
        ModelError: another kind, a cut that is not known, or damaged metadata.
    """
    kind, pre = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre", "default")
    if kind != "llama" and (kind != "gpt2" or pre not in _CUTS):
        raise ModelError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; "
            "use the model's Hugging Face folder"
        )
    tokens = file.field("tokenizer.ggml.tokens")
    types = file.field("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(f"{file.path}: its tokens and their types differ: download it anew")
    try:
        if kind == "llama":
            tokenizer, adds_begin = _sentencepiece(file, tokens, types), True
        else:
            tokenizer, adds_begin = _byte_level(file, tokens, _CUTS[pre]), _CUTS[pre].adds_begin
    except ModelError:
        raise
    except Exception as error:  # the Rust library raises plain Exception
        raise ModelError(
            f"{file.path}: its tokenizer is broken ({error}): download it anew"
        ) from None
    special = (_SPECIAL, _UNKNOWN) if kind == "llama" else (_SPECIAL,)
    tokenizer.add_special_tokens(_added(tokens, types, special, is_special=True))
    tokenizer.add_tokens(_added(tokens, types, (_USER_DEFINED,), is_special=False))
    ids = {key: _token_id(file, key, len(tokens)) for key in ("bos", "eos", "unknown", "padding")}
    single = ["$A"]
    for key, default, place in (("bos", adds_begin, 0), ("eos", False, 2)):
        if file.field(f"tokenizer.ggml.add_{key}_token", default):
            if ids[key] is None:
                file.field(f"tokenizer.ggml.{key}_token_id")  # says that it is missing
            single.insert(place, tokens[ids[key]])
    if used := {token: tokens.index(token) for token in single if token != "$A"}:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=list(used.items())
        )
    with no_advice():
        from transformers import PreTrainedTokenizerFast  # slow to import

    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=file.field("tokenizer.chat_template", None),
        **{f"{roles[key]}_token": tokens[i] for key, i in ids.items() if i is not None},
    )


def merges_of(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The pairs that make tokens of two others, those of the highest score first.

    SentencePiece merges the neighbours whose token has the highest score; as a list of merges in
    that order a byte-pair tokenizer does the same.
    """
    known = {token: i for i, token in enumerate(tokens)}
    pairs = []
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in known and right in known:
                pairs.append((-score, -len(left), known[left], known[right], left, right))
    pairs.sort()
    return [pair[4:] for pair in pairs]


def _sentencepiece(file: Metadata, tokens: list[str], types: list[int]) -> Tokenizer:
    scores = file.field("tokenizer.ggml.scores")
    if len(scores) != len(tokens):
        raise ModelError(f"{file.path}: its tokens and their scores differ: download it anew")
    merged = [
        (token, score)
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind == _NORMAL or (kind == _USER_DEFINED and not token.strip(_SPACE))
    ]
    unknown = _token_id(file, "unknown", len(tokens))
    tokenizer = Tokenizer(
        models.BPE(
            vocab=_vocabulary(tokens),
            merges=merges_of(*zip(*merged, strict=True)) if merged else [],
            unk_token=None if unknown is None else tokens[unknown],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    texts = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.field("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend(_SPACE))
        texts.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(texts)
    return tokenizer


def _byte_level(file: Metadata, tokens: list[str], cut: Cut) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in file.field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab=_vocabulary(tokens), merges=merges, ignore_merges=cut.keeps_tokens)
    )
    tokenizer.pre_tokenizer = cut.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _added(
    tokens: list[str], types: list[int], kinds: tuple[int, ...], is_special: bool
) -> list[AddedToken]:
    """Tokens of these kinds, found in a text as they stand; runs of spaces are merged instead."""
    return [
        AddedToken(token, special=is_special, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in kinds and token.strip(_SPACE)
    ]


def _token_id(file: Metadata, key: str, n_tokens: int) -> int | None:
    i = file.field(f"tokenizer.ggml.{key}_token_id", None)
    if i is not None and (type(i) is not int or not 0 <= i < n_tokens):
        raise ModelError(
            f"{file.path}: its {key} token {i} is none of its {n_tokens} tokens: download it anew"
        )
    return i
