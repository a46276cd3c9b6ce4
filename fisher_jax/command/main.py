"""`fisher-select`: choose the rows of a pool that are worth fine-tuning on."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fisher_jax.command import interruption
from fisher_jax.command.arguments import ALL_SELECTORS, NAME, check, check_earlier, parser
from fisher_jax.command.errors import Messages, is_told, tell
from fisher_jax.command.messages import progress
from fisher_jax.command.pool import Pool, pool_of_embeddings, pool_of_text
from fisher_jax.data.output import writing_selection
from fisher_jax.design import Budget, Selection, budget_in_examples, draw_fisher, evaluate, select
from fisher_jax.report import (
    N_DRAWS,
    compare_with_uniform,
    counted,
    write_manifest,
    write_ranking,
    write_report,
)
from fisher_jax.util.files import replacing_files
from fisher_jax.util.platforms import check_platform, here
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.provenance import provenance


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; messages go to stderr."""
    with interruption.listening(), contextlib.redirect_stderr(Messages(sys.stderr)):
        try:
            args = parser().parse_args(argv)
            check(args)
            check_platform()
            _run(args)
        except BaseException as error:
            if not is_told(error):
                raise
            smaller = "try a smaller --batch-tokens, --max-length or pool"
            return tell(NAME, error, smaller=smaller, interrupted=", no selection was written")
    return 0


def _run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    timings: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        timings[what] = round(time.perf_counter() - begin, 3)

    pool = pool_of_embeddings(args) if args.model is None else pool_of_text(args, timed)
    if args.token_budget is None:
        total, unit = budget_in_examples(len(pool.rows), args.n_samples, args.fraction), "row"
    else:
        total, unit = min(args.token_budget, int(pool.costs.sum())), "token"
    with timed("select"), progress("selecting", total, unit) as show:
        selection, weights = _choose(args, pool, total, show)
        chosen = selection.ranking
        show(len(chosen) if args.token_budget is None else int(pool.costs[chosen].sum()))
    with timed("compare"), progress("uniform draws", N_DRAWS, "draw") as show:
        emb = pool.emb.at_most_dim_rows()  # for the gains, once
        comparison = compare_with_uniform(
            emb, selection, args.ridge, args.seed, costs=pool.costs, on_progress=show
        )

    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    facts = pool.facts | {
        "rows": pool.n_rows,
        "tokens": len(pool.emb.tokens),
        "selected_rows": len(selection.ranking),
        "selected_tokens": int(pool.costs[chosen].sum()),
        "log_det": selection.log_det,
    }
    versions = provenance()
    writing = writing_selection(args.out, pool.file, pool.rows[chosen], selection.gains, weights)
    with writing, replacing_files(args.report_dir) as folder:  # OUT comes last
        with timed("report"):
            write_report(
                folder,
                emb,
                selection,
                comparison,
                ridge=args.ridge,
                preview=_preview(pool),
                row_of=pool.rows,
                costs=pool.costs,
                facts=f"{counted(facts['rows'], 'row')}, "
                f"{counted(facts['tokens'], 'token embedding')} of width {pool.emb.dim}; "
                f"{counted(facts['selected_rows'], 'row')} with "
                f"{counted(facts['selected_tokens'], 'token')} chosen.",
                notes=pool.notes,
                settings={k: v for k, v in (options | versions).items() if v is not None},
            )
            write_ranking(folder / "ranking.parquet", pool.rows, selection, pool.costs)
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
                "sizes": here()._asdict(),
                "seconds": timings,
            },
        )
        check_earlier(args)  # what came meanwhile
        interruption.check()
    print(
        f"{args.out}: {comparison.headline(selection)}; see {args.report_dir / 'report.html'}",
        file=sys.stderr,
    )


def _choose(
    args: argparse.Namespace, pool: Pool, total: int, show: OnProgress
) -> tuple[Selection, np.ndarray | None]:
    """The selection and, of `fisher_random`, the rows' weights."""
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


def _preview(pool: Pool) -> Callable[[int], str]:
    file = pool.file
    if file is None:
        return lambda i: f"example {i}"
    return lambda i: file.preview(int(pool.rows[i]))
