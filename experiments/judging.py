"""Pairwise judging of what a language run's models wrote: every selector against uniform.

`python -m experiments.judging outputs/language/cpu --judges likelihood local` reads the run's
texts and writes judged.json beside them; what was judged before stays. `--judges endpoint` asks an
OpenAI-compatible server; `--dry-run` says first what that would cost. `--sheet FOLDER` writes a
blinded sheet for people.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from experiments.language_options import Options
from experiments.language_preparation import pool_of
from experiments.language_training import prompts_of
from experiments.pools import split_corpus
from experiments.results import RESOLVED, RESULTS, Row, read_rows
from experiments.statistics import group
from fisher_jax.data import one_line, replacing
from fisher_jax.duplicates import normalized
from fisher_jax.embed import tokenize
from fisher_jax.finetune import TrainOptions, finetune
from fisher_jax.judge import Judge, Naming, Pair, judge_pairs, namings, tally
from fisher_jax.judges import LikelihoodJudge, LocalJudge
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.sheet import write_sheet

JUDGED = "judged.json"
CORPUS_NAMES = {"sherlock": "Sherlock Holmes"}
REFERENCE_ROWS = 1000


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path, help="of a finished or partial language run with texts")
    p.add_argument(
        "--judges", nargs="+", default=["likelihood"], choices=["likelihood", "local", "endpoint"]
    )
    p.add_argument("--selectors", nargs="+", help="only these against uniform (default: all)")
    p.add_argument("--equal", choices=["examples", "tokens"], help="only this kind of budget")
    p.add_argument("--ablation", action="store_true", help="also other names for the two texts")
    p.add_argument("--base-url", default="https://api.openai.com/v1", help="of the endpoint")
    p.add_argument("--judge-model", default="gpt-4o", help="of the endpoint")
    p.add_argument("--price-in", type=float, default=0.0, help="USD a million tokens read")
    p.add_argument("--price-out", type=float, default=0.0, help="USD a million tokens written")
    p.add_argument("--dry-run", action="store_true", help="the endpoint's cost, no call")
    p.add_argument("--sheet", type=Path, help="write a sheet for people here")
    args = p.parse_args()
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"experiments.judging: error: {one_line(error, 2000)}", file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """Judge and write; see the module's docstring.

    Raises:
        ValueError: a folder without texts, or a judge that can't be asked.
    """
    path = args.folder / RESULTS
    rows = [row for row in read_rows(path) if "texts" in row]
    if not rows:
        raise ValueError(
            f"{path} has no texts: run an experiment with n_prompts, such as experiment=cpu"
        )
    options = Options(**OmegaConf.to_object(OmegaConf.load(args.folder / RESOLVED)))  # pyright: ignore
    every = pairs_of(options, rows)
    pairs = {
        (name, equal, n): some
        for (name, equal, n), some in every.items()
        if name in (args.selectors or [name]) and args.equal in (None, equal)
    }
    if not pairs:
        raise ValueError(f"{path} has no texts of these selectors and budgets: ask for others")
    if args.sheet is not None:
        name, some = next(iter(pairs.items()))
        written = write_sheet(some, args.sheet, seed=0, methods=(name[0], "uniform"))
        print(f"{written.html}: {len(some)} pairs of {name[0]} and uniform", file=sys.stderr)
    if args.dry_run:
        estimate(args, options, pairs)
        return
    entries: list[Row] = []
    for kind in args.judges:
        judge = make_judge(kind, args, options)
        for (name, equal, n), some in tqdm(pairs.items(), desc=f"{kind} judge", unit="comparison"):
            wanted = {"neutral": namings(name, "uniform")["neutral"]}
            if args.ablation and kind != "likelihood":
                wanted = namings(name, "uniform")
            for naming, tags in wanted.items():
                judge_name = args.judge_model if kind == "endpoint" else kind
                at = {"judge": judge_name, "naming": naming, "selector": name, "equal": equal}
                at |= {"n": n, "texts": _digest(some)}
                entries.append(at | {"tally": verdicts(judge, some, tags, options)})
    judged = {_key(entry) for entry in entries}
    known = args.folder / JUDGED
    for entry in json.loads(known.read_text()) if known.exists() else []:
        same_texts = _digest(every.get(_key(entry)[2:], [])) == entry.get("texts")
        if _key(entry) not in judged and same_texts:
            entries.append(entry)
    with replacing(known) as temporary:
        temporary.write_text(json.dumps(sorted(entries, key=_key), indent=1) + "\n")
    print(f"{args.folder / JUDGED}: {len(entries)} comparisons with uniform", file=sys.stderr)


def _key(entry: Row) -> tuple:
    return tuple(entry[k] for k in ("judge", "naming", "selector", "equal", "n"))


def _digest(pairs: list[Pair]) -> str:
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


def pairs_of(options: Options, rows: Sequence[Row]) -> dict[tuple[str, str, int], list[Pair]]:
    """Continuations of the same prompt: a selector's model, and uniform's beside it."""
    prompts = {}
    for replicate in sorted({row["replicate"] for row in rows}):
        pool = pool_of(options, replicate)
        prompts[replicate] = prompts_of(pool.test, options)
    pairs: dict[tuple[str, str, int], list[Pair]] = {}
    for (name, equal, n, replicate), own in group(
        rows, "selector", "equal", "n", "replicate"
    ).items():
        base = [
            r
            for r in rows
            if (r["selector"], r["equal"], r["n"], r["replicate"])
            == ("uniform", equal, n, replicate)
        ]
        if name == "uniform" or not base:
            continue
        texts = zip(prompts[replicate], own[0]["texts"], base[0]["texts"], strict=True)
        pairs.setdefault((name, equal, n), []).extend(Pair(*three) for three in texts)
    return pairs


def make_judge(kind: str, args: argparse.Namespace, options: Options) -> Judge:
    """A back end by name."""
    if kind == "endpoint":
        return endpoint(args)
    model = load_model(options.model)
    return LocalJudge(model) if kind == "local" else LikelihoodJudge(reference(model, options))


def endpoint(args: argparse.Namespace) -> Any:
    """The OpenAI-compatible one, its transcript in the run's folder."""
    from fisher_jax.endpoint import EndpointJudge  # needs the extra `judge`

    return EndpointJudge(
        model=args.judge_model,
        transcript=args.folder / "transcript.jsonl",
        base_url=args.base_url,
    )


def estimate(args: argparse.Namespace, options: Options, pairs: dict) -> None:
    """Print what the endpoint would cost."""
    from fisher_jax.judge import questions_of

    corpus = CORPUS_NAMES.get(options.corpus, "Shakespeare")
    questions = [q for some in pairs.values() for q in questions_of(some, corpus=corpus)]
    dry = endpoint(args).dry_run(questions, price_in=args.price_in, price_out=args.price_out)
    print(dry, file=sys.stderr)


def reference(model: LanguageModel, options: Options) -> LanguageModel:
    """The model after LoRA on rows of the corpus that no replicate's pool or test set has."""
    used: set[str] = set()
    for replicate in range(options.replicates):
        pool = pool_of(options, replicate)
        used |= {normalized(row) for row in (*pool.rows, *pool.validation, *pool.test)}
    split = split_corpus(options.corpus, 1, 1, options.seed, options.path)
    free = [p.row for p in split.pool if normalized(p.row) not in used][:REFERENCE_ROWS]
    rows = tokenize(model, free, options.max_length)
    rows = rows.take(np.flatnonzero(rows.counted > 0))
    with tqdm(desc="reference model: LoRA", unit="step") as bar:

        def show(done: int, total: int, loss: float) -> None:
            bar.total = total
            bar.update()

        length = max(128, -(-(options.max_length - 1) // 64) * 64)
        return finetune(
            model,
            rows,
            TrainOptions(learning_rate=1e-3, sequences=4, sequence_length=length),
            on_step=show,
        ).model


def verdicts(judge: Judge, pairs: list[Pair], naming: Naming, options: Options) -> Row:
    """The tally of the pairs as plain values."""
    corpus = CORPUS_NAMES.get(options.corpus, "Shakespeare")
    found = tally(judge_pairs(judge, pairs, naming, corpus))._asdict()
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    """Without NaN, which JSON has no word for."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main()
