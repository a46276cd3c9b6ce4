"""A replicate of the language experiment before any selection: its rows, embedded."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from experiments.corpora.pools import HELD_OUT, Pool, make_pool
from experiments.language.options import Options
from experiments.language.variants import Candidates
from fisher_jax.data import Example
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import LanguageModel, TokenizedRows, tokenize
from fisher_jax.scoring import Endpoint, labels_of
from fisher_jax.training.last_layer import Positions, positions_of, trained_rows
from fisher_jax.training.packing import packed_states
from fisher_jax.util.errors import UserError


class Prepared(NamedTuple):
    """A replicate before any selection; `test_bytes` are of the test's predicted text."""

    pool: Pool
    rows: TokenizedRows
    validation: TokenizedRows
    test: TokenizedRows
    candidates: Candidates
    head: "Head | None"
    test_bytes: int


class Head(NamedTuple):
    """What last-layer training needs: the head's trained rows, and all positions."""

    start: np.ndarray
    pool: Positions
    validation: Positions
    test: Positions


def pool_of(options: Options, replicate: int) -> Pool:
    """A replicate's pool, validation and test rows."""
    return make_pool(
        options.pool,
        options.corpus,
        n_pool=options.n_pool,
        n_validation=options.n_validation,
        n_test=options.n_test,
        seed=seed_of(options, replicate),
        second=options.second,
        path=options.path,
        second_path=options.second_path,
        held_out=HELD_OUT if options.held_out is None else options.held_out,
    )


def prepare(
    options: Options,
    model: LanguageModel,
    pool: Pool,
    label: str,
    proxy: LanguageModel | None = None,
    asked: LanguageModel | Endpoint | None = None,
) -> Prepared:
    """A pool with its test set, embedded by the model, or the candidates by a proxy.

    Ask-LLM asks `asked`, by default the model that embeds the candidates.
    """
    label = f"{label}: embedding"
    parts = [
        tokenize(model, rows, options.max_length)
        for rows in (pool.rows, pool.validation, pool.test)
    ]
    for name, part in zip(("pool", "validation", "test"), parts, strict=True):
        if not part.counted.all():
            raise UserError(f"a row of the {name} has nothing to predict: raise max_length")
    with_test = options.method == "last_layer"
    states = []
    if with_test or proxy is None:
        states = embedded(model, parts if with_test else parts[:2], label)
    labels = [labels_of(part) for part in parts]
    module_head = np.asarray(model.module.head)
    head = None
    if with_test and model.module.logit_cap is not None:
        raise UserError(f"{model.name} caps its logits: method last_layer can't train it, lora can")
    if with_test:
        rows = trained_rows(labels[0], len(module_head))
        known = [positions_of(module_head, rows, x, y) for x, y in zip(states, labels, strict=True)]
        head = Head(module_head[rows], known[0], known[1], known[2])
    seen, seen_by = parts[:2], model
    if proxy is not None:
        texts = [
            as_cut(model, *two) for two in ((pool.rows, parts[0]), (pool.validation, parts[1]))
        ]
        seen = [tokenize(proxy, rows) for rows in texts]
        if not all(part.counted.all() for part in seen):
            raise UserError("a row has nothing to predict for the proxy: choose another")
        label += " by the proxy"
        states, seen_by = embedded(proxy, seen, label), proxy

    def of_rows(states: list[np.ndarray]) -> list[TokenEmbeddings]:
        """The pool's and the validation's."""
        return [TokenEmbeddings(x, part.offsets) for x, part in zip(states, seen, strict=True)]

    def earlier(share: float) -> list[TokenEmbeddings]:
        return of_rows(
            embedded(first_layers(seen_by, share), seen, f"{label}, {share:g} of the layers")
        )

    hidden, targets = of_rows(states[:2])
    candidates = Candidates(
        pool.rows,
        hidden,
        np.asarray(seen_by.module.head),
        labels_of(seen[0]),
        targets,
        seen_by,
        costs=parts[0].counted,
        earlier=earlier,
        asked=asked,
    )
    test_bytes = predicted_bytes(model, parts[2])
    return Prepared(pool, parts[0], parts[1], parts[2], candidates, head, test_bytes)


def first_layers(model: LanguageModel, share: float) -> LanguageModel:
    """The model with that share of its layers, rounded up, and its final norm."""
    graph, weights = nnx.split(model.module)
    n_layers = math.ceil(share * model.module.config.n_layers)
    layers = jax.tree.map(lambda x: x[:n_layers], weights["layers"])
    module = nnx.merge(graph, nnx.State({**weights, "layers": layers}))
    module.config = module.config._replace(n_layers=n_layers)  # pyright: ignore[reportAttributeAccessIssue]
    return model._replace(module=module)


def predicted_bytes(model: LanguageModel, rows: TokenizedRows) -> int:
    """UTF-8 bytes of the text that the counted positions predict."""
    decode: Any = model.tokenizer
    texts = (decode.decode(labels) for labels in rows.labels)
    return sum(len(text.encode()) for text in texts)


def as_cut(model: LanguageModel, rows: list[Example], tokenized: TokenizedRows) -> list[Example]:
    """The rows with no more text than the model sees."""
    decode: Any = model.tokenizer
    whole = tokenize(model, rows)
    cut = list(rows)
    for i, (ids, all_ids) in enumerate(zip(tokenized.ids, whole.ids, strict=True)):
        if len(ids) < len(all_ids):
            seen = ids if rows[i].prompt is None else tokenized.labels[i]
            text = decode.decode(seen, skip_special_tokens=True)
            cut[i] = rows[i]._replace(completion=text)
    return cut


def embedded(model: LanguageModel, parts: list[TokenizedRows], label: str) -> list[np.ndarray]:
    """States of the counted positions of each part."""
    states = []
    with tqdm(total=sum(len(part.ids) for part in parts), desc=label, unit="row") as bar:
        for part in parts:

            def show(done: int, begin: int = bar.n) -> None:
                bar.update(begin + done - bar.n)

            states.append(packed_states(model, part, on_progress=show))
    return states


def seed_of(options: Options, replicate: int) -> int:
    """Of a replicate's pool, draws and training order."""
    return options.seed * 1009 + replicate
