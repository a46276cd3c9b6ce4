"""Select, fine-tune, measure on held-out text: the paper's language-model experiment.

`python -m experiments.language experiment=cpu`. Every finished cell (replicate, selector, budget)
is kept; a killed run goes on after them.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.language.options import Options
from experiments.language.preparation import pool_of, prepare, seed_of
from experiments.language.training import described, train_and_test
from experiments.language.variants import VARIANTS
from experiments.run import live
from experiments.run.results import GROWING, Results, Row, settings_of
from fisher_jax.data.duplicates import check_near
from fisher_jax.models import load_model
from fisher_jax.training.finetune import DivergedError
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

MANIFEST = "manifest.json"


class Cell(NamedTuple):
    """One selection, training and test."""

    selector: str
    equal: str
    n: int


def run(options: Options, folder: Path) -> list[Row]:
    """All cells of all settings, those that `folder` already holds left as they are."""
    of_settings = settings_of(options)
    for _, own in of_settings:  # before any work
        path = Path(own.proxy or "")
        if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():  # no hub name
            raise UserError(
                f"proxy {own.proxy} does not exist: "
                f"python -m experiments.language.proxy {own.proxy}"
            )
        if {VARIANTS[name].keep for name in own.selectors} & {"near", "plain"}:
            check_near()
    results = Results(folder, asdict(options), options.overwrite, _key, GROWING)
    if not results.rows:
        (folder / MANIFEST).unlink(missing_ok=True)
    load = functools.lru_cache(2)(load_model)
    for setting, own in of_settings:
        label = " ".join(map(str, setting.values())) or own.pool
        tried = own.learning_rates
        known = [r["learning_rate"] for r in results.rows if r["setting"] == setting]
        if own.tune == "uniform" and known:  # rounded on disk
            tried = [min(tried, key=lambda rate: abs(rate - known[0]))]
        for replicate in range(own.replicates):
            at = {"setting": setting, "replicate": replicate}
            todo = [cell for cell in cells(own) if not results.has(at | cell._asdict())]
            if not todo:
                continue
            pool = pool_of(own, replicate)
            model, proxy = load(own.model), load(own.proxy) if own.proxy else None
            _write_facts(folder / MANIFEST, f"{label}/{replicate}", pool.facts)
            prepared = prepare(own, model, pool, f"{label}, replicate {replicate}", proxy)
            trained: dict[bytes, Row] = {}  # by what was chosen: the same rows are the same run
            for cell in tqdm(todo, desc=f"{label}, replicate {replicate}", unit="cell"):
                chosen = prepared.candidates.choose(
                    cell.selector, n=cell.n, equal=cell.equal, seed=seed_of(own, replicate)
                )
                texts = own.n_prompts > 0 and cell.n in own.generate_budgets
                same = chosen.key + bytes([texts])
                if same not in trained:
                    try:
                        trained[same] = train_and_test(
                            own, model, prepared, chosen, replicate, tried, texts
                        )
                    except DivergedError as error:
                        raise UserError(
                            f"{label}, replicate {replicate}, {' '.join(map(str, cell))}: {error}: "
                            f"leave {cell.selector} out of selectors, or start again with "
                            "overwrite=true and lower learning_rates"
                        ) from None
                measured = trained[same]
                if own.tune == "uniform":
                    tried = [measured["learning_rate"]]
                row = at | cell._asdict() | described(prepared, chosen) | measured
                results.add([row])
                live.log(
                    finished=f"{label}/{replicate}/{cell.selector}/{cell.equal}/{cell.n}",
                    rows=len(results.rows),
                    **{k: v for k, v in measured.items() if k.endswith("_nll") and k != "test_nll"},
                )
    return results.rows


def cells(options: Options) -> Iterator[Cell]:
    """Uniform first, at the first budget; its further ones are counted in the first `equal`."""
    for name in options.selectors:
        for equal in options.equal:
            more = options.uniform_budgets if (name, equal) == ("uniform", options.equal[0]) else []
            yield from (Cell(name, equal, n) for n in dict.fromkeys([*options.budgets, *more]))


def _key(row: Row) -> Any:
    return [row[k] for k in ("setting", "replicate", "selector", "equal", "n")]


def _write_facts(path: Path, where: str, facts: Row) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get(where, facts)["sha256"] != facts["sha256"]:
        raise UserError(
            f"{path}: {where} was made of other rows than its corpus gives now: take the corpus as "
            "it was, or start again with overwrite=true"
        )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known | {where: facts}, indent=1, sort_keys=True) + "\n")
