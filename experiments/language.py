"""Select, fine-tune, measure on held-out text: the paper's language-model experiment.

`python -m experiments.language experiment=cpu`. Every finished cell (replicate, selector, budget)
is kept; a killed run goes on after them.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.harness import Wandb, start
from experiments.pools import KINDS, Pool, make_pool
from experiments.results import RUNTIME_KEYS, Results, Row, settings
from experiments.softmax_study import one_of, positive
from experiments.variants import VARIANTS, Candidates, Chosen
from fisher_jax.data import Row as DataRow
from fisher_jax.data import replacing
from fisher_jax.design import TokenEmbeddings
from fisher_jax.embed import TokenizedRows, tokenize
from fisher_jax.finetune import TrainOptions, finetune
from fisher_jax.last_layer import HeadOptions, Positions, nll, positions_of, train, trained_rows
from fisher_jax.models.generate import generate
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.packing import packed_states
from fisher_jax.scores import labels_of, token_scores

METHODS = ("last_layer", "lora", "full")
MANIFEST = "manifest.json"
GROWING = ("selectors", "equal", "budgets", "uniform_budgets", "replicates")  # add cells only


@dataclass
class Options:
    """Options of the language experiment; `conf/language/config.yaml` explains each."""

    name: str
    method: str
    model: str
    corpus: str
    pool: str
    second: str
    path: str | None
    second_path: str | None
    n_pool: int
    n_validation: int
    n_test: int
    max_length: int
    budgets: list[int]
    uniform_budgets: list[int]
    equal: list[str]
    selectors: list[str]
    replicates: int
    learning_rates: list[float]
    tune: str
    epochs: int
    batch_tokens: int
    rank: int
    n_prompts: int
    prompt_words: int
    new_tokens: int
    temperature: float
    generate_budgets: list[int]
    seed: int
    proxy: str | None = None
    grid: dict[str, list[Any]] = field(default_factory=dict)
    overwrite: bool = False
    wandb: Wandb = field(default_factory=Wandb)

    def __post_init__(self) -> None:
        one_of(self, "method", [*METHODS])
        one_of(self, "pool", [*KINDS])
        one_of(self, "tune", ["each", "uniform"])
        positive(self, "n_pool n_validation n_test max_length replicates epochs batch_tokens rank")
        for name in self.selectors:
            if name not in VARIANTS:
                raise ValueError(
                    f"selectors has an unknown name {name!r}; known: {', '.join(VARIANTS)}"
                )
        if self.selectors[:1] != ["uniform"]:
            raise ValueError("selectors must begin with uniform, what the others are compared with")
        if not set(self.equal) <= {"examples", "tokens"} or not self.equal:
            raise ValueError(f"equal must be of examples and tokens, got {self.equal}")
        if self.n_prompts and self.method == "last_layer":
            raise ValueError("n_prompts must be 0 with method=last_layer, which keeps no model")
        for budgets in (self.budgets, self.uniform_budgets, self.generate_budgets):
            if any(not 1 <= n <= self.n_pool for n in budgets):
                raise ValueError(f"budgets must be from 1 to n_pool = {self.n_pool}, got {budgets}")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates must be above 0, got {self.learning_rates}")
        for key in self.grid:
            if key not in self.__dataclass_fields__ or key in ("name", "grid", *RUNTIME_KEYS):
                raise ValueError(f"grid has an unknown option {key!r}")


class Cell(NamedTuple):
    """One selection, training and test."""

    selector: str
    equal: str
    n: int


class Prepared(NamedTuple):
    """A replicate before any selection."""

    pool: Pool
    rows: TokenizedRows
    validation: TokenizedRows
    test: TokenizedRows
    candidates: Candidates
    head: "Head | None"


class Head(NamedTuple):
    """What last-layer training needs: the head's trained rows, and all positions."""

    start: np.ndarray
    pool: Positions
    validation: Positions
    test: Positions


def run(options: Options, folder: Path) -> list[Row]:
    """All cells of all settings, those that `folder` already holds left as they are."""
    results = Results(folder, asdict(options), options.overwrite, _key, GROWING)
    load = functools.lru_cache(2)(load_model)
    for setting in settings(options.grid):  # before any work
        proxy = setting.get("proxy", options.proxy)
        path = Path(proxy or "")
        if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():  # no hub name
            raise ValueError(f"proxy {proxy} does not exist: python -m experiments.proxy {proxy}")
    for setting in settings(options.grid):
        own = replace(options, **setting, grid={})
        label = " ".join(map(str, setting.values())) or own.pool
        tried = own.learning_rates
        if own.tune == "uniform":  # as an earlier run found it
            tried = [r["learning_rate"] for r in results.rows if r["setting"] == setting][
                :1
            ] or tried
        for replicate in range(own.replicates):
            at = {"setting": setting, "replicate": replicate}
            todo = [cell for cell in cells(own) if not results.has(at | cell._asdict())]
            if not todo:
                continue
            model, proxy = load(own.model), load(own.proxy) if own.proxy else None
            prepared = prepare(own, model, replicate, label, proxy)
            _write_facts(folder / MANIFEST, f"{label}/{replicate}", prepared.pool.facts)
            trained: dict[bytes, Row] = {}  # by what was chosen: the same rows are the same run
            for cell in tqdm(todo, desc=f"{label}, replicate {replicate}", unit="cell"):
                chosen = prepared.candidates.choose(
                    cell.selector, n=cell.n, equal=cell.equal, seed=seed_of(own, replicate)
                )
                texts = own.n_prompts > 0 and cell.n in own.generate_budgets
                same = chosen.key + bytes([texts])
                if same not in trained:
                    trained[same] = train_and_test(
                        own, model, prepared, chosen, replicate, tried, texts
                    )
                measured = trained[same]
                if own.tune == "uniform":
                    tried = [measured["learning_rate"]]
                row = at | cell._asdict() | described(prepared, chosen.rows) | measured
                results.add([row])
    return results.rows


def cells(options: Options) -> Iterator[Cell]:
    """Uniform first; its further budgets are counted in the first unit of `equal`."""
    for name in options.selectors:
        for equal in options.equal:
            more = options.uniform_budgets if (name, equal) == ("uniform", options.equal[0]) else []
            yield from (Cell(name, equal, n) for n in sorted({*options.budgets, *more}))


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
    )


def prepare(
    options: Options,
    model: LanguageModel,
    replicate: int,
    label: str,
    proxy: LanguageModel | None = None,
) -> Prepared:
    """A fresh pool with its test set, embedded by the model, or the candidates by a proxy."""
    pool = pool_of(options, replicate)
    label = f"{label}, replicate {replicate}: embedding"
    parts = [
        tokenize(model, rows, options.max_length)
        for rows in (pool.rows, pool.validation, pool.test)
    ]
    for name, part in zip(("pool", "validation", "test"), parts, strict=True):
        if not part.counted.all():
            raise ValueError(f"a row of the {name} has nothing to predict: raise max_length")
    with_test = options.method == "last_layer"
    states = []
    if with_test or proxy is None:
        states = embedded(model, parts if with_test else parts[:2], label)
    labels = [labels_of(part) for part in parts]
    module_head = np.asarray(model.module.head)
    head = None
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
            raise ValueError("a row has nothing to predict for the proxy: choose another")
        states, seen_by = embedded(proxy, seen, f"{label} by the proxy"), proxy
    hidden, targets = (
        TokenEmbeddings(x, np.concatenate([[0], np.cumsum(part.counted)]))
        for x, part in zip(states[:2], seen, strict=True)
    )
    candidates = Candidates(
        pool.rows,
        hidden,
        np.asarray(seen_by.module.head),
        labels_of(seen[0]),
        targets,
        seen_by,
        costs=parts[0].counted,
    )
    return Prepared(pool, parts[0], parts[1], parts[2], candidates, head)


def as_cut(model: LanguageModel, rows: list[DataRow], tokenized: TokenizedRows) -> list[DataRow]:
    """The rows with no more text than the model sees."""
    decode: Any = model.tokenizer
    whole = tokenize(model, rows)
    cut = list(rows)
    for i, (ids, all_ids) in enumerate(zip(tokenized.ids, whole.ids, strict=True)):
        if len(ids) < len(all_ids):
            row, first = rows[i], tokenized.first[i]
            cut[i] = (
                decode.decode(ids, skip_special_tokens=True)
                if isinstance(row, str)
                else row._replace(completion=decode.decode(ids[first:], skip_special_tokens=True))
            )
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


def train_and_test(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    chosen: Chosen,
    replicate: int,
    tried: list[float],
    texts: bool,
) -> Row:
    """Train on the rows and measure, at the learning rate with the best validation loss."""
    runs = (_train(options, model, prepared, chosen, replicate, rate) for rate in tried)
    measured, tuned = min(runs, key=lambda run: run[0]["validation_nll"])
    if texts and tuned is not None:
        measured["texts"] = generate(
            tuned,
            prompts_of(prepared.pool.test, options),
            max_new_tokens=options.new_tokens,
            temperature=options.temperature,
            seed=seed_of(options, replicate),
        )
    return measured


def _train(
    options: Options,
    model: LanguageModel,
    prepared: Prepared,
    chosen: Chosen,
    replicate: int,
    rate: float,
) -> tuple[Row, LanguageModel | None]:
    """Losses on validation and test after one training; the model, of which a head is no part."""
    seed, head = seed_of(options, replicate), prepared.head
    tuned = None
    if head is not None:
        offsets = np.concatenate([[0], np.cumsum(prepared.rows.counted)])
        theta = train(
            head.start,
            head.pool,
            [np.arange(*offsets[i : i + 2]) for i in chosen.rows],
            HeadOptions(rate, options.epochs, options.batch_tokens, seed=seed),
            chosen.weights,
        )
        losses = [nll(theta, data) for data in (head.validation, head.test)]
    else:
        length = max(128, -(-(options.max_length - 1) // 64) * 64)
        tuned = finetune(
            model,
            prepared.rows.take(chosen.rows),
            TrainOptions(
                options.method,  # pyright: ignore[reportArgumentType]
                learning_rate=rate,
                epochs=options.epochs,
                sequences=max(1, options.batch_tokens // length),
                sequence_length=length,
                rank=options.rank,
                seed=seed,
            ),
            weights=chosen.weights,
        ).model
        losses = [token_losses(tuned, part) for part in (prepared.validation, prepared.test)]
    return {"learning_rate": rate} | _measures(prepared, *losses), tuned


def prompts_of(test: list[DataRow], options: Options) -> list[str]:
    """The first words of the first test sentences of twice as many; a question's prompt whole."""
    prompts = []
    for row in test:
        if not isinstance(row, str):
            prompts.append(row.prompt)
        elif len(words := row.split()) >= 2 * options.prompt_words:
            prompts.append(" ".join(words[: options.prompt_words]))
    return prompts[: options.n_prompts]


def _measures(prepared: Prepared, validation_T: np.ndarray, test_T: np.ndarray) -> Row:
    parts = prepared.validation, prepared.test
    validation, test = (
        np.add.reduceat(x, np.concatenate([[0], np.cumsum(part.counted)[:-1]]))
        for x, part in zip((validation_T, test_T), parts, strict=True)
    )
    domains = prepared.pool.test_domain
    n_own = len(validation) - len(validation) // 2 if domains.any() else len(validation)
    return (
        _means("validation", validation, parts[0].counted, np.arange(len(validation)) >= n_own)
        | _means("held_out", test, parts[1].counted, domains)
        | {
            "bits_per_byte": float(test.sum() / np.log(2) / _bytes(prepared.pool.test)),
            "test_nll": [round(float(x), 3) for x in test],
        }
    )


def _means(name: str, sums: np.ndarray, counts: np.ndarray, domains: np.ndarray) -> Row:
    """Nats a token: the mean over the domains' own means, and those."""
    means = [
        float(sums[domains == d].sum() / counts[domains == d].sum()) for d in np.unique(domains)
    ]
    each = {f"{name}_nll_{d}": m for d, m in enumerate(means)} if len(means) > 1 else {}
    return {f"{name}_nll": float(np.mean(means))} | each


def token_losses(model: LanguageModel, rows: TokenizedRows) -> np.ndarray:
    """NLL of every counted position, nats."""
    return token_scores(model.module.head, packed_states(model, rows), labels_of(rows)).nll_T


def described(prepared: Prepared, rows: np.ndarray) -> Row:
    """What was chosen: rows, tokens that are trained and fed, shares of the pool's kinds."""
    fed = np.array([len(ids) - 1 for ids in prepared.rows.ids])
    kinds = prepared.pool.kind
    return {
        "rows": len(rows),
        "tokens": int(prepared.rows.counted[rows].sum()),
        "fed_tokens": int(fed[rows].sum()),
        "chosen": rows.tolist(),
        "shares": {str(k): round(float(np.mean(kinds[rows] == k)), 4) for k in np.unique(kinds)},
    }


def _bytes(rows: list[DataRow]) -> int:
    return sum(len((row if isinstance(row, str) else row.completion).encode()) for row in rows)


def seed_of(options: Options, replicate: int) -> int:
    """Of a replicate's pool, draws and training order."""
    return options.seed * 1009 + replicate


def _key(row: Row) -> Any:
    return [row[k] for k in ("setting", "replicate", "selector", "equal", "n")]


def _write_facts(path: Path, where: str, facts: Row) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known | {where: facts}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    start("language")
