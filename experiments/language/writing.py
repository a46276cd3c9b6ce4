"""Texts that a trained model writes: continuations of the first words of test sentences."""

from typing import NamedTuple

import numpy as np

from experiments.language.options import Options
from fisher_jax.data import Example
from fisher_jax.models import LanguageModel
from fisher_jax.models.generate import generate


class Prompted(NamedTuple):
    """A prompt, and how its test row goes on, white space at the beginning included."""

    prompt: str
    real: str


def prompted(test: list[Example], options: Options) -> list[Prompted]:
    """The first words of the first test sentences of twice as many; a question's prompt whole."""
    found = []
    for row in test:
        if row.prompt is not None:
            found.append(Prompted(str(row.prompt), str(row.completion)))
        elif len(words := row.text().split()) >= 2 * options.prompt_words:
            first, rest = words[: options.prompt_words], words[options.prompt_words :]
            found.append(Prompted(" ".join(first), "".join(f" {word}" for word in rest)))
    return found[: options.n_prompts]


def prompts_of(test: list[Example], options: Options) -> list[str]:
    """Their prompts alone."""
    return [one.prompt for one in prompted(test, options)]


def continued(model: LanguageModel, prompts: list[str], options: Options, seed: int) -> list[str]:
    """What the model adds to each prompt.

    Of `new_tokens` each, or of as many as make `total_tokens` with the prompt's own, but no more
    than the context takes; prompts of alike lengths are then continued together.
    """
    lengths = np.array([len(ids) for ids in model.tokenizer(prompts)["input_ids"]])
    texts = [""] * len(prompts)
    whole = options.total_tokens
    for length in [lengths.max()] if whole is None else np.unique(lengths):
        places = np.flatnonzero(lengths == length) if whole else np.arange(len(prompts))
        room = model.context - int(length)
        written = generate(
            model,
            [prompts[i] for i in places],
            max_new_tokens=min(whole - int(length) if whole else options.new_tokens, room),
            temperature=options.temperature,
            seed=seed,
            batch_size=options.decoded_rows,
        )
        for i, text in zip(places, written, strict=True):
            texts[i] = text
    return texts
