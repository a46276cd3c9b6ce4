"""What selectors take: lengths, rare words, loss and norm of the first picks.

`python -m experiments.language.picks outputs/language/cpu` selects once more in
replicate 0 of the run's first setting, without any training, and writes picks.json into its
folder: the run's selectors, with `--every` all of `fisher_jax.selectors` too.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from tqdm import tqdm

from experiments.language.options import Options
from experiments.language.preparation import Prepared, pool_of, prepare, seed_of
from experiments.language.variants import TASK, VARIANTS
from experiments.run.harness import reporting
from experiments.run.kept import options_as
from experiments.run.results import RESOLVED, Row, settings
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.design import evaluate
from fisher_jax.models import load_model
from fisher_jax.scoring import row_means
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

PICKS = "picks.json"
FIRST = 20
SHOWN = 5  # first picks whose text is kept
QUANTILES = (0.1, 0.5, 0.9)
EVERY = [name for name in SELECTORS if name in VARIANTS and name != "ifd"]


class Facts(NamedTuple):
    """A number for every row of a pool.

    Attributes:
        tokens: that are learnt.
        rare: share of its tokens that no other row of the pool has.
        repeats: share of its tokens that repeat one of the same row.
        loss: mean NLL a token under the model before training, nats.
        energy: mean squared norm of its embeddings, the pool's mean is 1.
        alone: its gain as the first row, nats.
    """

    tokens: Int[np.ndarray, "N"]
    rare: Float[np.ndarray, "N"]
    repeats: Float[np.ndarray, "N"]
    loss: Float[np.ndarray, "N"]
    energy: Float[np.ndarray, "N"]
    alone: Float[np.ndarray, "N"]


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path, help="of a finished or partial language run")
    p.add_argument(
        "--every",
        action="store_true",
        help="all of fisher_jax.selectors too (not ifd, for completions)",
    )
    args = p.parse_args()
    with reporting("experiments.language.picks"):
        options = options_as(args.folder / RESOLVED, Options)
        names = dict.fromkeys([*options.selectors, *(EVERY if args.every else ())])
        found = picks(replace(options, **next(settings(options.grid)), grid={}, selectors=[*names]))
        with replacing(args.folder / PICKS) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{args.folder / PICKS}: {len(found['selectors'])} selectors", file=sys.stderr)


def picks(options: Options) -> Row:
    """Facts of the pool, and of each selector's first 20 and all n rows of it at equal examples."""
    if options.proxy is not None:
        raise UserError("proxy must be null: what is described are the model's own picks")
    prepared = prepare(options, load_model(options.model), pool_of(options, 0), "pool")
    facts, n, seed = facts_of(prepared), options.budgets[0], seed_of(options, 0)
    found: Row = {"n": n, "pool": described(facts, np.arange(len(facts.tokens))), "selectors": {}}
    emb = prepared.candidates.features_of("tokens")[0]
    of_pool = [name for name in options.selectors if VARIANTS[name].rule != TASK]
    for name in tqdm(of_pool, desc="selecting", unit="selector"):
        chosen = prepared.candidates.choose(name, n=n, equal="examples", seed=seed).rows
        found["selectors"][name] = {
            "n": len(chosen),
            "first": described(facts, chosen[:FIRST]),
            "all": described(facts, chosen),
            "length_quantiles": [float(q) for q in np.quantile(facts.tokens[chosen], QUANTILES)],
            "order_and_length": rank_correlation(-np.arange(len(chosen)), facts.tokens[chosen]),
            "log_det": evaluate(emb, chosen).log_det,
            "texts": [prepared.pool.rows[i].preview() for i in chosen[:SHOWN]],
        }
    for name, values in (("gain", facts.alone), ("gain_per_token", facts.alone / facts.tokens)):
        found[f"{name}_and_length"] = rank_correlation(values, facts.tokens)
    return found


def facts_of(prepared: Prepared) -> Facts:
    """See `Facts`."""
    candidates = prepared.candidates
    (emb, _), rows = candidates.features_of("tokens"), prepared.rows
    having = np.bincount(np.concatenate([np.unique(ids) for ids in rows.labels]))
    norms = np.einsum("td,td->t", emb.tokens, emb.tokens)
    alone = np.empty(len(emb))
    for i in range(len(emb)):
        alone[i] = np.linalg.slogdet(np.eye(emb.lengths[i]) + emb[i] @ emb[i].T)[1]
    return Facts(
        tokens=emb.lengths,
        rare=np.array([np.mean(having[ids] == 1) for ids in rows.labels]),
        repeats=np.array([1 - len(np.unique(ids)) / len(ids) for ids in rows.labels]),
        loss=candidates.inputs["losses"],
        energy=row_means(norms, emb.offsets),
        alone=alone,
    )


def described(facts: Facts, rows: Sequence[int] | Int[np.ndarray, "n"]) -> dict[str, float]:
    """Means over some rows."""
    return {name: float(np.mean(values[rows])) for name, values in facts._asdict().items()}


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None where all are equal."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(stats.spearmanr(a, b)[0])  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    keep_compiled()
    main()
