"""`fisher-select`: choose the rows of a pool that are worth fine-tuning on."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from fisher_jax.arguments import ALL_SELECTORS, NAME, check, parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; messages go to stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        args = parser().parse_args(argv)
        check(args)
        _run(args)
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{NAME}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class _Pool(NamedTuple):
    """The pool in memory: its file, embeddings and costs of the rows kept, and which these are."""

    file: Any
    emb: Any
    costs: Any
    rows: Any
    n_rows: int
    notes: list[str]
    facts: dict[str, Any]
    given: dict[str, Any]  # what the selector needs beside the embeddings


def _run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    timings: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        timings[what] = round(time.perf_counter() - begin, 3)

    from fisher_jax.budget import budget_in_examples
    from fisher_jax.data import replacing_files, write_selection
    from fisher_jax.provenance import provenance
    from fisher_jax.report import (
        N_DRAWS,
        compare_with_uniform,
        counted,
        write_manifest,
        write_ranking,
        write_report,
    )

    pool = _pool_of_embeddings(args) if args.model is None else _pool_of_text(args, timed)
    if args.token_budget is None:
        total, unit = budget_in_examples(len(pool.rows), args.n_samples, args.fraction), "row"
    else:
        total, unit = min(args.token_budget, int(pool.costs.sum())), "token"
    with timed("select"), _progress("selecting", total, unit) as show:
        selection, weights = _choose(args, pool, total, show)
        chosen = selection.ranking
        show(len(chosen) if args.token_budget is None else int(pool.costs[chosen].sum()))
    with timed("compare"), _progress("uniform draws", N_DRAWS, "draw") as show:
        comparison = compare_with_uniform(
            pool.emb, selection, args.ridge, args.seed, on_progress=show
        )

    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    facts = pool.facts | {
        "rows": pool.n_rows,
        "tokens": len(pool.emb.tokens),
        "selected_rows": len(selection.ranking),
        "selected_tokens": int(pool.emb.lengths[selection.ranking].sum()),
        "log_det": selection.log_det,
    }
    versions = provenance()
    with replacing_files(args.report_dir) as folder:
        with timed("report"):
            write_report(
                folder,
                pool.emb,
                selection,
                comparison,
                ridge=args.ridge,
                preview=_preview(pool),
                row_of=pool.rows,
                facts=f"{counted(facts['rows'], 'row')}, "
                f"{counted(facts['tokens'], 'token embedding')} of width {pool.emb.dim}; "
                f"{counted(facts['selected_rows'], 'row')} with "
                f"{counted(facts['selected_tokens'], 'token')} chosen.",
                notes=pool.notes,
                settings={k: v for k, v in (options | versions).items() if v is not None},
            )
            write_ranking(folder / "ranking.parquet", pool.rows, selection, pool.emb.lengths)
        timings["total"] = round(time.perf_counter() - started, 3)
        write_manifest(
            folder / "manifest.json",
            {
                "options": options,
                "result": facts,
                "notes": pool.notes,
                "uniform_log_det": {
                    "equal_examples": float(comparison.examples.mean[-1]),
                    "equal_tokens": float(comparison.tokens.mean[-1]),
                },
                "versions": versions,
                "seconds": timings,
            },
        )
        write_selection(args.out, pool.file, pool.rows[selection.ranking], selection.gains, weights)
    print(
        f"{args.out}: {comparison.headline(selection)}; see {args.report_dir / 'report.html'}",
        file=sys.stderr,
    )


def _choose(
    args: argparse.Namespace, pool: _Pool, total: int, show: Callable[[int], None]
) -> tuple[Any, Any]:
    """The selection and, of `fisher_random`, the rows' weights."""
    from fisher_jax.budget import Budget
    from fisher_jax.randomized import draw_fisher
    from fisher_jax.selection import evaluate, select

    if args.token_budget is None:
        budget: dict[str, Any] = {"n_samples": total}
    else:
        budget = {"token_budget": float(total), "costs": pool.costs}
    if args.selector is None:
        return select(pool.emb, **budget, ridge=args.ridge, on_progress=show), None
    if args.selector == "fisher_random":
        drawn = draw_fisher(
            pool.emb, Budget.of(pool.emb, **budget), ridge=args.ridge, seed=args.seed
        )
        return evaluate(pool.emb, drawn.ranking, args.ridge), drawn.weights
    options = budget | {"ridge": args.ridge, "seed": args.seed} | pool.given
    return ALL_SELECTORS[args.selector](pool.emb, **options, on_progress=show), None


def _pool_of_text(args: argparse.Namespace, timed: Callable) -> _Pool:
    from fisher_jax.data import check_columns_fit, read_pool

    with timed("read"):
        file = read_pool(args.pool, args.text_column)
        check_columns_fit(args.out, file)

    import numpy as np

    from fisher_jax.design import TokenEmbeddings
    from fisher_jax.duplicates import deduplicate_exact
    from fisher_jax.embed import forward, standardize, tokenize
    from fisher_jax.models.load import file_sha256, load_model
    from fisher_jax.report import counted
    from fisher_jax.scores import completions_alone

    assert file.rows is not None
    if args.selector == "ifd" and any(isinstance(row, str) for row in file.rows):
        raise ValueError(f"{args.pool}: --selector ifd is for prompt + completion rows")
    with timed("deduplicate"):
        unique = _without_copies(args.deduplicate, file.rows)
    candidates: list[Any] = [file.rows[i] for i in unique]
    with timed("load_model"):
        model = load_model(args.model, args.dtype)
    with timed("tokenize"):
        tokenized = tokenize(model, candidates, args.max_length, args.positions)
        costs = tokenized.counted
        if args.positions == "prompt":
            costs = tokenize(model, candidates, args.max_length).counted
    is_empty, lacks = tokenized.counted == 0, "no token to predict"
    if args.selector == "ifd":
        prompts = np.array([bool(row.prompt) for row in candidates])
        is_empty |= ~prompts | (completions_alone(model, tokenized).counted == 0)
        lacks = "no prompt or no token to predict without it"
    empty = np.flatnonzero(is_empty)
    if len(empty) and args.on_empty == "error":
        first = ", ".join(file.where(int(unique[i])).split(", ")[-1] for i in empty[:5])
        raise ValueError(
            f"{args.pool}: {len(empty)} row(s) have {lacks} ({first}"
            f"{', ...' if len(empty) > 5 else ''}): pass --on-empty skip to leave "
            "them out, or mend them"
        )
    some = np.flatnonzero(~is_empty)
    if len(some) == 0:
        raise ValueError(
            f"{args.pool}: no row has a token to predict: give rows two tokens or "
            "more and a completion, or a larger --max-length"
        )
    kept, rows, texts = tokenized.take(some), unique[some], [candidates[i] for i in some]
    notes, n_cut = [], tokenized.n_cut
    if n_copies := len(file) - len(unique):
        was = "copy was" if n_copies == 1 else "copies were"
        notes.append(f"{n_copies:,} {args.deduplicate} {was} dropped.")
    if args.deduplicate == "none" and (n_equal := len(rows) - len(deduplicate_exact(texts))):
        notes.append(
            f"{counted(n_equal, 'row')} repeat{'s' * (n_equal == 1)} an earlier one: "
            "--deduplicate exact leaves such rows out."
        )
    if len(empty):
        skipped = [candidates[i] for i in empty]  # a row counts once, as skipped
        n_cut -= tokenize(model, skipped, args.max_length, args.positions).n_cut
        was = "was" if len(empty) == 1 else "were"
        notes.append(f"{counted(len(empty), 'row')} with {lacks} {was} skipped.")
    if n_cut:
        was, limit = "was" if n_cut == 1 else "were", args.max_length or model.context
        notes.append(f"{counted(n_cut, 'row')} {was} longer than {limit:,} tokens and {was} cut.")
    _announce(
        args,
        kept.counted,
        model.dim,
        notes,
        forward_flops=2.0 * model.n_parameters * sum(len(ids) for ids in kept.ids),
    )
    with timed("embed"), _progress("embedding", len(rows), "row") as show:
        tokens = forward(model, kept, args.batch_tokens, show)
        offsets = np.concatenate([[0], np.cumsum(kept.counted)])
    with timed("score"):
        given = _given(args, model, texts, kept, TokenEmbeddings(tokens, offsets))
        emb = TokenEmbeddings(standardize(tokens, args.normalize, args.center), offsets)
    facts = {
        "pool": str(args.pool),
        "pool_sha256": file_sha256(args.pool),
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "dropped_copies": n_copies,
        "skipped_rows": len(empty),
        "cut_rows": n_cut,
    }
    return _Pool(file, emb, np.maximum(costs[some], 1), rows, len(file), notes, facts, given)


def _given(
    args: argparse.Namespace, model: Any, texts: list, rows: Any, hidden: Any
) -> dict[str, Any]:
    """What the selector needs to be told by the model."""
    from fisher_jax.inputs import Inputs
    from fisher_jax.scores import labels_of

    needs = [] if args.selector is None else ALL_SELECTORS[args.selector].needs
    if not needs:
        return {}
    asks_again = bool({"quality", "ifd"} & {*needs})
    total, unit = (len(texts), "row") if asks_again else (len(hidden.tokens), "token")
    with _progress("scoring", total, unit) as show:
        inputs = Inputs(
            hidden,
            model.module.head,
            labels_of(rows),
            texts,
            model,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            on_progress=show,
        )
        return {needed: inputs[needed] for needed in needs}


def _without_copies(deduplicate: str, rows: Any) -> Any:
    """Indices of the rows that are no copy of an earlier one."""
    import numpy as np

    from fisher_jax.duplicates import deduplicate_exact, deduplicate_near

    if deduplicate == "none":
        return np.arange(len(rows))
    if deduplicate == "exact":
        return deduplicate_exact(rows)
    with _progress("looking for copies", len(rows), "row") as show:
        return deduplicate_near(rows, on_progress=show)


def _pool_of_embeddings(args: argparse.Namespace) -> _Pool:
    import numpy as np

    from fisher_jax.data import check_columns_fit, read_embeddings, read_pool
    from fisher_jax.design import TokenEmbeddings
    from fisher_jax.embed import standardize
    from fisher_jax.models.load import file_sha256

    emb = read_embeddings(args.embeddings)
    file = None if args.pool is None else read_pool(args.pool, needs_text=False)
    if file is not None and len(file) != len(emb):
        raise ValueError(
            f"{args.embeddings} has {len(emb)} examples, {args.pool} has "
            f"{len(file)} rows: they must be the same rows in the same order"
        )
    if file is not None:
        check_columns_fit(args.out, file)
    _announce(args, emb.lengths, emb.dim, [], forward_flops=0.0)
    tokens = standardize(np.array(emb.tokens), args.normalize, args.center)
    facts = {"embeddings": str(args.embeddings), "embeddings_sha256": file_sha256(args.embeddings)}
    if args.pool is not None:
        facts |= {"pool": str(args.pool), "pool_sha256": file_sha256(args.pool)}
    emb = TokenEmbeddings(tokens, emb.offsets)
    return _Pool(file, emb, emb.lengths, np.arange(len(emb)), len(emb), [], facts, {})


def _announce(
    args: argparse.Namespace, lengths: Any, dim: int, notes: list[str], forward_flops: float
) -> None:
    """One line of what is to come: rows, tokens, memory and estimated time."""
    from fisher_jax.budget import budget_in_examples
    from fisher_jax.report import counted

    rows, tokens = len(lengths), int(lengths.sum())
    if args.token_budget is None:
        choices = budget_in_examples(rows, args.n_samples, args.fraction)
    elif args.token_budget < lengths.min():
        raise ValueError(
            f"--token-budget {args.token_budget} buys nothing: the shortest row has "
            f"{lengths.min()} tokens to learn, pass at least that"
        )
    else:
        choices = min(rows, args.token_budget * rows // tokens)
    # some 80 rows of mean length are evaluated for a choice, each times a D x D matrix
    select_flops = 2.0 * dim**2 * tokens / rows * (80 * choices + 3 * 20 * choices)
    seconds = 20 + 1.5 * (forward_flops + select_flops) / _flops_per_second()
    memory = (2.5 * 4 * tokens * dim) / 2**30 + 1
    about = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    print(
        f"{NAME}: {counted(rows, 'row')}, {counted(tokens, 'token')} to learn, about "
        f"{memory:.1f} GiB and {about}. {' '.join(notes)}".rstrip(),
        file=sys.stderr,
    )


def _flops_per_second() -> float:
    """What a product of two matrices reaches here, measured in a moment."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    product(x).block_until_ready()
    begin = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 1024.0**3 / (time.perf_counter() - begin)


def _preview(pool: _Pool) -> Callable[[int], str]:
    if pool.file is None:
        return lambda i: f"example {i}"
    return lambda i: pool.file.preview(int(pool.rows[i]))


@contextlib.contextmanager
def _progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and remaining time; the yielded function sets what is done."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr, mininterval=0.3) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        yield show


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """A polite kill cleans up like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
