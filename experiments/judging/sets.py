"""The texts of every selector's models as a set, beside the real ones: `realness`, measured."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from experiments.judging.calibration import as_long_as, shuffled
from experiments.judging.realness import mauve, told_apart
from experiments.judging.texts import Texts, Written
from experiments.run.kept import Row
from fisher_jax.models import LanguageModel, last_states


def measured(texts: Texts, setting: str, model: LanguageModel) -> Iterator[Row]:
    """MAUVE and the discriminator's area of a setting's texts, a row a selector and budget.

    A text is as many words as the real one has. The first two rows say what the measures make of
    texts that are known: `real` is one half of the real texts against the other, and `shuffled`
    are their own words in a random order.
    """
    rng = np.random.default_rng(0)
    for k, (selector, (equal, n), written) in enumerate(_sets(texts, setting)):
        prompts, real = [one.prompt for one in written], [one.real for one in written]
        of_real = features(model, prompts, real)
        sets = {selector: [as_long_as(one.text, one.real) for one in written]}
        where = {"setting": json.loads(setting), "equal": equal, "n": n}
        if k == 0:
            halves = mauve(of_real[::2], of_real[1::2])
            yield where | {"selector": "real", "mauve": halves, "told_apart": None}
            sets = {"shuffled": [shuffled(text, rng) for text in real]} | sets
        for name, some in sets.items():
            area = told_apart(real, some, prompts)
            near = mauve(of_real, features(model, prompts, some))
            yield where | {"selector": name, "mauve": near, "told_apart": [*area]}


def _sets(texts: Texts, setting: str) -> Iterator[tuple[str, tuple[str, int], list[Written]]]:
    for selector in texts.selectors(setting):
        for budget, places in texts.written(setting, selector).items():
            yield selector, budget, [one for one in places.values() if one.real.split()]


def features(
    model: LanguageModel, prompts: Sequence[str], texts: Sequence[str]
) -> Float[np.ndarray, "N D"]:
    """The model's last state of each prompt with its continuation."""
    whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    return last_states(model, model.tokenizer(whole)["input_ids"])
