"""Pairwise judging of what a language run's models wrote: every selector against uniform.

`python -m experiments.judging outputs/language/cpu --judges likelihood local` reads the run's
texts and writes judged.json beside them; what was judged before stays. A judge on this machine
judges pairs of known order first (calibrated.json): one that fails there gives no table. `--judges
endpoint` asks an OpenAI-compatible server; `--dry-run` says first what that would cost. `--sheet
FOLDER` writes a blinded sheet of the first comparison for people, `--answers FOLDER/sheet.csv`
reads it back, filled in, and prints Cohen's kappa with every judge. `--realness` measures the texts
as sets beside real ones (realness.json).
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.corpora.pools import split_corpus
from experiments.judging.calibration import calibrated, known_pairs
from experiments.judging.judge import Judge, Naming, Pair, judge_pairs, namings, questions_of, tally
from experiments.judging.judges import EndpointJudge, LikelihoodJudge, LocalJudge
from experiments.judging.sets import measured
from experiments.judging.sheet import about_sheet, cohen_kappa, read_answers, write_sheet
from experiments.judging.texts import Contest, Texts, comparison_of, digest
from experiments.language.options import Options
from experiments.language.preparation import pool_of
from experiments.run.harness import reporting
from experiments.run.kept import Row, read_json
from experiments.run.results import RESULTS
from fisher_jax.data.duplicates import normalized
from fisher_jax.models import LanguageModel, load_model, tokenize
from fisher_jax.scoring.endpoint import SETTINGS, Quote
from fisher_jax.training.finetune import TrainOptions, finetune
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import remove_leftovers_in, replacing
from fisher_jax.util.locks import only_writer

JUDGED, CALIBRATED, REALNESS = "judged.json", "calibrated.json", "realness.json"
REFERENCE_ROWS, LEAST_ROWS = 1000, 100  # that the reference model learns from


class Task(NamedTuple):
    """A comparison for one judge under one naming."""

    kind: str
    naming: str
    comparison: Contest


def main() -> None:
    """The command."""
    with reporting("experiments.judging.main"):
        run(parsed())


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Its arguments."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path, help="of a finished or partial language run with texts")
    p.add_argument(
        "--judges", nargs="+", default=["likelihood"], choices=["likelihood", "local", "endpoint"]
    )
    p.add_argument("--selectors", nargs="+", help="only these (default: all)")
    p.add_argument("--against", nargs="+", default=["uniform"], help="selectors to compare with")
    p.add_argument("--equal", choices=["examples", "tokens"], help="only this kind of budget")
    p.add_argument("--n", type=int, help="only this budget")
    p.add_argument("--local-model", help="the local judge (default: the run's own model)")
    p.add_argument("--ablation", action="store_true", help="also other names for the two texts")
    p.add_argument("--corpus-name", help="what the judge is a judge of, as in its prompt")
    p.add_argument("--base-url", default="https://api.openai.com/v1", help="of the endpoint")
    p.add_argument("--judge-model", default="gpt-4o", help="of the endpoint")
    p.add_argument("--key-variable", default="OPENAI_API_KEY", help="that holds the endpoint's key")
    p.add_argument("--requests-per-minute", type=float, help="no more than so many")
    p.add_argument(
        "--settings",
        type=_json_object,
        default=SETTINGS,
        help='of the call, as JSON; models that think first: {"max_completion_tokens": 2000}',
    )
    p.add_argument("--price-in", type=float, help="USD a million tokens read")
    p.add_argument("--price-out", type=float, help="USD a million tokens written")
    p.add_argument(
        "--realness",
        action="store_true",
        help="how near the texts are to real ones: MAUVE, and a classifier; judge nothing",
    )
    p.add_argument("--dry-run", action="store_true", help="what the endpoint would be asked")
    p.add_argument("--sheet", type=Path, help="write a sheet for people here, judge nothing")
    p.add_argument("--answers", type=Path, help="a sheet that people filled in, judge nothing")
    p.add_argument("--key", type=Path, help="its key (default: FOLDER.key.json beside its folder)")
    return p.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Judge and write; see the module's docstring.

    Raises:
        ValueError: a folder without texts, or a judge that can't be asked.
    """
    texts = Texts(args.folder)
    path = args.folder / JUDGED
    with only_writer(path):
        _run(args, texts, path)


def _run(args: argparse.Namespace, texts: Texts, path: Path) -> None:
    remove_leftovers_in(args.folder)
    entries = _of_these_texts(read_entries(path), texts, path)
    if args.key is not None and args.answers is None:
        raise UserError("--key goes with --answers: give both")
    if args.answers is not None:
        folder = args.answers.resolve().parent
        key = args.key or folder.with_name(f"{folder.name}.key.json")
        agreement(args.answers, key, entries)
        return
    if args.realness:
        model = lru_cache(1)(load_model)
        rows = [
            row
            for setting in texts.settings
            for row in tqdm(
                measured(texts, setting, model(texts.options(setting).model)), unit="set"
            )
        ]
        with replacing(args.folder / REALNESS) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
        return
    comparisons = [
        c
        for c in texts.comparisons(args.against)
        if c.selector in (args.selectors or [c.selector])
        and args.equal in (None, c.equal)
        and args.n in (None, c.n)
    ]
    if not comparisons:
        raise UserError(
            f"{args.folder / RESULTS} has no texts of these selectors and budgets: ask for others"
        )
    if args.sheet is not None:
        first, pairs = comparisons[0], texts.pairs(comparisons[0])
        methods = (first.selector, first.against)
        written = write_sheet(pairs, args.sheet, seed=0, methods=methods, about=digest(pairs))
        print(f"{written.html}: {len(pairs)} pairs, {first.title}", file=sys.stderr)
        return
    corpus = {c: texts.corpus(c, args.corpus_name) for c in comparisons}
    kinds = ["endpoint"] if args.dry_run else args.judges
    every = [
        Task(kind, naming, c)
        for kind, c in itertools.product(kinds, comparisons)
        for naming in (namings(c.selector, c.against) if args.ablation else ["neutral"])
        if naming == "neutral" or kind != "likelihood"
    ]
    done = {_key(e) for e in entries if "winners" in e}  # an endpoint's answers: its transcript
    tasks = [t for t in every if t.kind == "endpoint" or _key(_entry(t, args)) not in done]
    if "endpoint" in kinds:
        judge = endpoint(args)
        asked = [t for t in tasks if t.kind == "endpoint"]
        found = expected(judge, asked, texts, corpus, args)
        print(told(found, args), file=sys.stderr)
        if args.dry_run:
            if found.first is not None:
                print(f"the first question:\n\n{found.first}")
            return
        _ = judge.client  # a missing key or package is told before another judge begins
    judge_of = lru_cache(1)(lambda kind, setting: make_judge(kind, args, texts.options(setting)))
    for kind in {task.kind: None for task in every if task.kind != "endpoint"}:
        for c in {c.setting: c for c in comparisons}.values():
            calibrate(kind, c, args, texts, judge_of)
    for task in tqdm(tasks, unit="comparison"):
        c, pairs = task.comparison, texts.pairs(task.comparison)
        tags = namings(c.selector, c.against)[task.naming]
        found = verdicts(judge_of(task.kind, c.setting), pairs, tags, corpus[c])
        entry = _entry(task, args) | {"texts": digest(pairs)} | found
        entries = [e for e in entries if _key(e) != _key(entry)] + [entry]
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(sorted(entries, key=_key), indent=1) + "\n")
    print(f"{path}: {len(entries)} comparisons", file=sys.stderr)


def calibrate(
    kind: str,
    comparison: Contest,
    args: argparse.Namespace,
    texts: Texts,
    judge_of: Callable[[str, str], Judge],
) -> None:
    """Let a judge judge pairs of known order, unless it has; keep how often it was right."""
    path, setting = args.folder / CALIBRATED, comparison.setting
    pairs = known_pairs(texts, setting)
    who = {"judge": judge_name(kind, args), "setting": json.loads(setting)}
    about = who | {"texts": digest([pair for known in pairs for pair in known.pairs])}
    kept = read_json(path) if path.exists() else []
    if not isinstance(kept, list) or not all(isinstance(row, dict) for row in kept):
        raise UserError(f"{path} is damaged: remove it, and the judge is calibrated again")
    if any(about.items() <= row.items() for row in kept):
        return
    corpus = texts.corpus(comparison, args.corpus_name)
    found = [about | row for row in calibrated(judge_of(kind, setting), pairs, corpus)]
    for row in found:
        told = "passes" if row["passes"] else "FAILS, and gives no table"
        print(
            f"{row['judge']}, {row['kind']}: right in {row['right'][0]:.0%} of {row['n_pairs']} "
            f"pairs, position 1 in {row['position_1']:.0%}: {told}",
            file=sys.stderr,
        )
    others = [row for row in kept if not who.items() <= row.items()]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(others + found, indent=1) + "\n")


def judge_name(kind: str, args: argparse.Namespace) -> str:
    """As it stands in the files."""
    return {"endpoint": args.judge_model, "local": args.local_model}.get(kind) or kind


def agreement(path: Path, key: Path, entries: Sequence[Row]) -> None:
    """Print Cohen's kappa of people's answers and every judge of the same texts.

    Raises:
        ValueError: answers or their key can't be read, or nobody judged these texts.
    """
    people, about = read_answers(path, key), about_sheet(key)
    same = [e for e in entries if e["texts"] == about and "winners" in e]
    if not same:
        raise UserError(f"{path}: no judge has seen these texts: judge them first (--judges)")
    for entry in same:
        winners = {i: w for i, w in enumerate(entry["winners"]) if w != "unparsable"}
        kappa, agreed, n = cohen_kappa(people, winners)
        who = f"{entry['judge']} ({entry['naming']}), {comparison_of(entry).title}"
        print(f"{who}: kappa {kappa:.2f}, the same winner in {agreed:.0%} of {n} pairs")


def read_entries(path: Path) -> list[Row]:
    """What was judged before, of JUDGED in a folder.

    Raises:
        UserError: the file is damaged.
    """
    entries = read_json(path) if path.exists() else []
    try:
        keys = sorted(map(_key, entries))
        _ = {*keys}
    except (LookupError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: remove it, and judge again") from None
    return entries


def _of_these_texts(entries: list[Row], texts: Texts, path: Path) -> list[Row]:
    """Entries whose texts are still those of the run; the others are told of."""
    kept = []
    for entry in entries:
        comparison = comparison_of(entry)
        if digest(texts.pairs(comparison)) == entry.get("texts"):
            kept.append(entry)
        else:
            print(
                f"{path}: {entry['judge']} ({entry['naming']}) judged other texts of "
                f"{comparison.title}: left out, and to be judged again",
                file=sys.stderr,
            )
    return kept


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise UserError("settings must be a JSON object")
    return value


def _entry(task: Task, args: argparse.Namespace) -> Row:
    setting, selector, against, equal, n = task.comparison
    where = {"setting": json.loads(setting), "selector": selector, "against": against}
    judge = judge_name(task.kind, args)
    return {"judge": judge, "naming": task.naming, **where, "equal": equal, "n": n}


def _key(entry: Row) -> tuple:
    return (entry["judge"], entry["naming"], *comparison_of(entry))


def make_judge(kind: str, args: argparse.Namespace, options: Options) -> Judge:
    """A back end by name."""
    if kind == "endpoint":
        return endpoint(args)
    if kind == "local":
        return LocalJudge(load_model(args.local_model or options.model))
    return LikelihoodJudge(reference(load_model(options.model), options))


def endpoint(args: argparse.Namespace) -> EndpointJudge:
    """The OpenAI-compatible one, its transcript in the run's folder."""
    return EndpointJudge(
        model=args.judge_model,
        transcript=args.folder / "transcript.jsonl",
        base_url=args.base_url,
        key_variable=args.key_variable,
        requests_per_minute=args.requests_per_minute,
        settings=args.settings,
    )


def expected(
    judge: EndpointJudge,
    tasks: Sequence[Task],
    texts: Texts,
    corpus: dict[Contest, str],
    args: argparse.Namespace,
) -> Quote:
    """What the endpoint will be asked, and at most be paid."""
    questions = [
        question.text
        for _, naming, c in tasks
        for question in questions_of(
            texts.pairs(c), namings(c.selector, c.against)[naming], corpus[c]
        )
    ]
    return judge.dry_run(questions, args.price_in or 0.0, args.price_out or 0.0)


def told(found: Quote, args: argparse.Namespace) -> str:
    """That in a line."""
    priced = args.price_in is not None and args.price_out is not None
    cost = f"{found.cost:.2f} USD" if priced else "unknown without --price-in and --price-out"
    return (
        f"{args.judge_model} at {args.base_url}: {found.n_calls:,} calls, {found.n_known:,} known; "
        f"about {found.tokens_in:,} tokens read, at most {found.tokens_out:,} written; cost {cost}"
    )


def reference(model: LanguageModel, options: Options) -> LanguageModel:
    """The model after LoRA on rows of the corpus that no replicate's pool or test set has."""
    used: set[str] = set()
    for replicate in range(options.replicates):
        pool = pool_of(options, replicate)
        used |= {normalized(row) for row in (*pool.rows, *pool.validation, *pool.test)}
    split = split_corpus(options.corpus, 1, 1, options.seed, options.path)
    free = [p.row for p in split.pool if normalized(p.row) not in used][:REFERENCE_ROWS]
    if len(free) < LEAST_ROWS:
        raise UserError(
            f"the likelihood judge learns from rows that no pool or test set has, and of "
            f"{options.corpus} {len(free)} are left: take other --judges"
        )
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


def verdicts(judge: Judge, pairs: list[Pair], naming: Naming, corpus: str) -> Row:
    """Tally and winners of the pairs as plain values."""
    found = judge_pairs(judge, pairs, naming, corpus)
    counts = {name: _plain(value) for name, value in tally(found)._asdict().items()}
    return {"tally": counts, "winners": [verdict.winner for verdict in found]}


def _plain(value: Any) -> Any:
    """Without NaN, which JSON has no word for."""
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
