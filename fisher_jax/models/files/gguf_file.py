"""A GGUF file (llama.cpp's format) as a model and its tokenizer, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from jax.typing import DTypeLike
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from fisher_jax.models.files.assemble import ModelError, Tensor, assemble, checked_sizes
from fisher_jax.models.gpt2 import GPT2, GPT2Config
from fisher_jax.models.llama import Llama, LlamaConfig
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

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


class _Reader(gguf.GGUFReader):
    """The package's reader, with arrays of numbers taken at once.

    It makes two objects of every number and does not notice the file's end, so that one damaged
    length would take all memory.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: Any) -> tuple[int, list, list, list]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        number, begin = self.gguf_scalar_to_np.get(gguf.GGUFValueType(kind[0])), orig_offs + 12
        if number is None:
            return super()._get_field_parts(orig_offs, raw_type)
        n_bytes = int(length[0]) * np.dtype(number).itemsize
        if n_bytes > len(self.data) - begin:
            raise UserError(f"an array of {length[0]} numbers goes past its end")
        values = self._get(begin, number, length[0])
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind[0])]
        return 12 + n_bytes, [kind, length, values], [2], types


class GGUFFile:
    """An open GGUF: `field(key)`, `tensors()`, `config()`, `model(dtype)`, `tokenizer()`.

    Raises:
        ModelError: in the constructor for a file that is not a whole GGUF; in the methods for
            what the two forward passes and the tokenizers can't do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = _Reader(path)
        except Exception as error:  # the reader's own errors have no common base
            reason = one_line(error)
            raise ModelError(
                f"{path} is not a whole GGUF file ({reason}): download it anew"
            ) from None
        self.architecture = self.field("general.architecture")

    def field(self, key: str, default: Any = ModelError) -> Any:
        """A metadata value; `{arch}` in the key stands for the architecture."""
        if "{arch}" in key:
            key = key.format(arch=self.architecture)
        field = self._reader.fields.get(key)
        if field is not None:
            try:
                return field.contents()
            except UnicodeDecodeError:
                raise ModelError(
                    f"{self.path}: its metadata {key} is damaged: download it anew"
                ) from None
        if default is ModelError:
            raise ModelError(f"{self.path} has no metadata {key}: get a complete GGUF")
        return default

    def tensors(self) -> dict[str, Tensor]:
        """All tensors in (out, in) order, dequantised when read."""

        def read(tensor: gguf.ReaderTensor) -> np.ndarray:
            try:
                return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError:
                raise ModelError(
                    f"{self.path}: quantisation {tensor.tensor_type.name} of "
                    f"{tensor.name} is not supported; use another file"
                ) from None

        return {
            t.name: Tensor(tuple(int(n) for n in t.shape[::-1]), lambda t=t: read(t))
            for t in self._reader.tensors
        }

    def config(self) -> LlamaConfig | GPT2Config:
        """The sizes in the metadata."""
        if self.architecture not in ("llama", "gpt2"):
            raise ModelError(
                f"{self.path}: architecture {self.architecture!r} is not supported, "
                "only llama and gpt2 are"
            )
        tensors = {t.name: t for t in self._reader.tensors}
        if "token_embd.weight" not in tensors:
            raise ModelError(f"{self.path} lacks tensor token_embd.weight: get a complete GGUF")
        vocab, tied = int(tensors["token_embd.weight"].shape[1]), "output.weight" not in tensors
        dim, heads = (
            self.field("{arch}.embedding_length"),
            self.field("{arch}.attention.head_count"),
        )
        if type(heads) is not int:
            raise ModelError(
                f"{self.path}: head counts that differ from layer to layer are not supported"
            )
        sizes = {
            "vocab": vocab,
            "dim": dim,
            "n_layers": self.field("{arch}.block_count"),
            "n_heads": heads,
            "mlp_dim": self.field("{arch}.feed_forward_length"),
            "context": self.field("{arch}.context_length"),
            "tied": tied,
        }
        if self.architecture == "gpt2":
            epsilon = self.field("gpt2.attention.layer_norm_epsilon")
            return checked_sizes(GPT2Config(**sizes, norm_eps=epsilon), self.path)
        scaling = self.field("llama.rope.scaling.type", "linear")  # llama.cpp's default
        factor = self.field("llama.rope.scaling.factor", 1.0) or 1.0
        if scaling not in ("none", "linear") or "rope_freqs.weight" in tensors:
            kind = "llama3" if scaling in ("none", "linear") else scaling
            raise ModelError(
                f"{self.path}: RoPE scaling {kind!r} of a GGUF is not supported; "
                "use the model's Hugging Face folder"
            )
        head_dim = self.field("llama.attention.key_length", dim // max(1, heads))
        if self.field("llama.rope.dimension_count", head_dim) != head_dim:
            raise ModelError(f"{self.path}: rotary embeddings on part of a head are not supported")
        config = LlamaConfig(
            **sizes,
            n_kv_heads=self.field("llama.attention.head_count_kv", heads),
            head_dim=head_dim,
            norm_eps=self.field("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=self.field("llama.rope.freq_base", 10000.0),
            rope_scaling=factor if scaling == "linear" else 1.0,
            attention_bias="blk.0.attn_q.bias" in tensors,
        )
        return checked_sizes(config, self.path)

    def model(self, dtype: DTypeLike) -> Llama | GPT2:
        """The model; Llama's query and key rows are put back in order for rotating halves."""
        config, tensors = self.config(), self.tensors()
        if isinstance(config, LlamaConfig):
            for name, tensor in list(tensors.items()):
                if ".attn_q." in name or ".attn_k." in name:
                    tensors[name] = Tensor(
                        tensor.shape,
                        lambda read=tensor.read: _unpermute(read(), config.head_dim),
                    )
        return assemble(config, tensors, "gguf", dtype, str(self.path))

    def tokenizer(self) -> Callable[..., Any]:
        """The byte-pair tokenizer that the metadata describes, `tokenizer.ggml.pre` included."""
        kind, pre = self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
            raise ModelError(
                f"{self.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; "
                "use the model's Hugging Face folder"
            )
        tokens = self.field("tokenizer.ggml.tokens")
        types = self.field("tokenizer.ggml.token_type", [1] * len(tokens))
        merges = [tuple(merge.split(" ", 1)) for merge in self.field("tokenizer.ggml.merges")]
        vocab = {token: i for i, token in enumerate(tokens)}
        try:
            bpe = models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe")
        except Exception as error:  # the Rust library raises plain Exception
            raise ModelError(
                f"{self.path}: its tokenizer is broken ({error}): download it anew"
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
            i = self.field(f"tokenizer.ggml.{key}_token_id", None)
            if i is None:
                continue
            if not 0 <= i < len(tokens):
                raise ModelError(
                    f"{self.path}: its {key} token {i} is none of its {len(tokens)} tokens: "
                    "download it anew"
                )
            named[f"{role}_token"] = tokens[i]
        single = ["$A"]
        if self.field("tokenizer.ggml.add_bos_token", pre == "llama-bpe"):  # llama.cpp's default
            single.insert(0, tokens[self.field("tokenizer.ggml.bos_token_id")])
        if self.field("tokenizer.ggml.add_eos_token", False):
            single.append(tokens[self.field("tokenizer.ggml.eos_token_id")])
        if special := {t for t in single if t != "$A"}:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single, special_tokens=[(t, vocab[t]) for t in special]
            )
        from transformers import PreTrainedTokenizerFast  # slow to import

        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            chat_template=self.field("tokenizer.chat_template", None),
            **named,
        )


def _unpermute(weights: np.ndarray, head_dim: int) -> np.ndarray:
    """GGUF stores a head's rows as interleaved rotation pairs; ours rotates halves."""
    pairs = weights.reshape(-1, head_dim // 2, 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)
