"""Select, fine-tune, measure on held-out text: the paper's language-model experiment.

`python -m experiments.language experiment=cpu`. Every finished cell (replicate, selector, budget)
is kept; a killed run goes on after them.
"""

import functools
import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.language.cells import work
from experiments.language.options import LATER, Options
from experiments.language.preparation import pool_of, prepare
from experiments.language.training import measured
from experiments.language.variants import VARIANTS
from experiments.run import live
from experiments.run.kept import read_facts
from experiments.run.packed import PACKED, unpack
from experiments.run.results import (
    GROWING,
    PROVENANCE,
    RESOLVED,
    RESULTS,
    Results,
    Row,
    settings_of,
)
from fisher_jax.data.duplicates import check_near
from fisher_jax.models import LanguageModel, load_model
from fisher_jax.scoring import ASK_SETTINGS, Endpoint
from fisher_jax.training.finetune import DivergedError
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

MANIFEST = "manifest.json"
ANSWERS = "ask_llm.jsonl"  # of the endpoint that is asked


def run(options: Options, folder: Path) -> list[Row]:
    """All cells of all settings, those that `folder` already holds left as they are.

    Where it holds none, those of the folder `start` are taken over, if there are any; after
    `hours` no further cell is begun.
    """
    _check(options)
    if options.start is not None and not options.overwrite:
        _take_over(Path(options.start), folder)
    results = Results(folder, asdict(options), options.overwrite, _key, GROWING, LATER)
    if not results.rows:
        (folder / MANIFEST).unlink(missing_ok=True)
    load = functools.lru_cache(3)(load_model)
    end = math.inf if options.hours is None else time.monotonic() + 3600 * options.hours
    for setting, own, replicate, wanted in work(options):
        at = {"setting": setting, "replicate": replicate}
        todo = [cell for cell in wanted if not results.has(at | cell._asdict())]
        if not todo or time.monotonic() >= end:
            continue
        label = " ".join(map(str, setting.values())) or own.pool
        pool = pool_of(own, replicate)
        model, proxy = load(own.model), load(own.proxy) if own.proxy else None
        asked = _asked(own, folder) or (load(own.ask_model) if own.ask_model else proxy or model)
        _check_asked(own, asked)
        _write_facts(folder / MANIFEST, f"{label}/{replicate}", pool.facts)
        prepared = prepare(own, model, pool, f"{label}, replicate {replicate}", proxy, asked)
        rates = own.learning_rates
        known = [r["learning_rate"] for r in results.rows if r["setting"] == setting]
        if own.tune == "uniform" and known:  # rounded on disk
            rates = [min(rates, key=lambda rate: abs(rate - known[0]))]
        bar = tqdm(total=len(todo), desc=f"{label}, replicate {replicate}", unit="cell")
        try:
            for cell, row in measured(own, model, prepared, replicate, todo, rates, end):
                results.add([at | cell._asdict() | row])
                bar.update()
                live.log(
                    finished=f"{label}/{replicate}/{cell.selector}/{cell.equal}/{cell.n}",
                    rows=len(results.rows),
                    **{k: v for k, v in row.items() if k.endswith("_nll") and k != "test_nll"},
                )
        except DivergedError as error:
            raise UserError(f"{label}, replicate {replicate}, {error}") from None
        finally:
            bar.close()
    _tell_missing(options, results)
    return results.rows


def _check(options: Options) -> None:
    """Refuse, before any work, what the options name and is not there."""
    for _, own in settings_of(options):
        path = Path(own.proxy or "")
        if len(path.parts) > 1 and path.parent.is_dir() and not path.exists():  # no hub name
            raise UserError(
                f"proxy {own.proxy} does not exist: "
                f"python -m experiments.language.proxy {own.proxy}"
            )
        if {VARIANTS[name].keep for name in own.selectors} & {"near", "plain"}:
            check_near()


def _asked(options: Options, folder: Path) -> Endpoint | None:
    """The endpoint that Ask-LLM asks; no answer is paid for twice."""
    if options.ask_endpoint is None:
        return None
    assert options.ask_model is not None
    answers = folder / ANSWERS
    return Endpoint(options.ask_model, answers, options.ask_endpoint, settings=ASK_SETTINGS)


def _check_asked(options: Options, model: LanguageModel | Endpoint) -> None:
    """Ask-LLM's answer means nothing where the model was not taught to answer."""
    asks = [name for name in options.selectors if VARIANTS[name].rule == "ask_llm"]
    if not asks:
        return
    if isinstance(model, Endpoint):
        _ = model.client  # a missing key is told now
    elif not model.chats:
        raise UserError(
            f"{asks[0]} asks {model.name}, which has no chat template and so was not taught to "
            "answer: name another by ask_model=smollm2-135m, or leave it out of selectors"
        )


def _take_over(start: Path, folder: Path) -> None:
    """Results that are committed become those of an empty folder."""
    if (folder / RESULTS).exists() or not (start / PACKED).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESOLVED, PROVENANCE, MANIFEST):
        if (start / name).exists():
            shutil.copy(start / name, folder / name)
    with replacing(folder / RESULTS) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in unpack(start / PACKED)))


def _tell_missing(options: Options, results: Results) -> None:
    wanted = {
        json.dumps([of.setting, of.replicate, *cell], sort_keys=True)
        for of in work(options)
        for cell in of.cells
    }
    missing = wanted - {json.dumps(_key(row), sort_keys=True) for row in results.rows}
    if missing:
        print(
            f"{len(missing)} of {len(wanted)} cells are missing: the same command goes on",
            file=sys.stderr,
        )


def _key(row: Row) -> Any:
    return [row[k] for k in ("setting", "replicate", "selector", "equal", "n")]


def _write_facts(path: Path, where: str, facts: Row) -> None:
    known = read_facts(path) if path.exists() else {}
    if known.get(where, facts).get("sha256") != facts["sha256"]:
        raise UserError(
            f"{path}: {where} was made of other rows than its corpus gives now: take the corpus as "
            "it was, or start again with overwrite=true"
        )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(known | {where: facts}, indent=1, sort_keys=True) + "\n")
