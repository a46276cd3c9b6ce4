"""The pool of `fisher-select` in memory: read, embedded, with what its selector needs beside."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.command.arguments import ALL_SELECTORS, answers_of
from fisher_jax.command.messages import announce, progress
from fisher_jax.data import Columns, Example
from fisher_jax.data.duplicates import deduplicate_exact, deduplicate_near
from fisher_jax.data.embeddings_file import read_embeddings
from fisher_jax.data.output import check_columns_fit
from fisher_jax.data.pool_file import PoolFile, read_pool
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import (
    LanguageModel,
    TokenizedRows,
    file_sha256,
    forward,
    load_model,
    standardize,
    tokenize,
)
from fisher_jax.report import counted
from fisher_jax.scoring import (
    ASK_SETTINGS,
    Endpoint,
    Inputs,
    ask_questions,
    completions_alone,
    labels_of,
)
from fisher_jax.util.errors import UserError
from fisher_jax.util.platforms import check_fits, here


class Pool(NamedTuple):
    """Embeddings and costs of the rows that may be chosen.

    Attributes:
        file: as read, None for embeddings without one.
        emb: of the rows kept, centred and scaled.
        costs: tokens of each that are learnt.
        rows: which rows of the file they are.
        n_rows: of the file.
        notes: what was left out or cut, in sentences.
        facts: for the manifest.
        given: what the selector needs beside the embeddings.
    """

    file: PoolFile | None
    emb: TokenEmbeddings
    costs: Int[np.ndarray, "N"]
    rows: Int[np.ndarray, "N"]
    n_rows: int
    notes: list[str]
    facts: dict[str, Any]
    given: dict[str, Any]


def pool_of_embeddings(args: argparse.Namespace) -> Pool:
    """From ready embeddings, and the file whose rows they are if there is one."""
    emb = read_embeddings(args.embeddings)
    file = None if args.pool is None else read_pool(args.pool, needs_text=False)
    if file is not None and len(file) != len(emb):
        raise UserError(
            f"{args.embeddings} has {len(emb)} examples, {args.pool} has "
            f"{len(file)} rows: they must be the same rows in the same order"
        )
    if file is not None:
        check_columns_fit(args.out, file)
    _check_enough(args, len(emb))
    announce(args, emb.lengths, emb.lengths, emb.dim, [])
    facts = {"embeddings": str(args.embeddings), "embeddings_sha256": file_sha256(args.embeddings)}
    if args.pool is not None:
        facts |= {"pool": str(args.pool), "pool_sha256": file_sha256(args.pool)}
    tokens = standardize(np.array(emb.tokens), args.normalize, args.center)
    emb = TokenEmbeddings(tokens, emb.offsets)
    return Pool(file, emb, emb.lengths, np.arange(len(emb)), len(emb), [], facts, {})


def pool_of_text(args: argparse.Namespace, timed: Callable) -> Pool:
    """From a file of text, embedded by a model."""
    endpoint = _endpoint(args)
    with timed("read"):
        is_text = args.targets is not None and args.pool.suffix.lower() == ".txt"
        column = None if is_text else args.text_column  # that of the targets
        file = read_pool(args.pool, Columns(text=column))
        check_columns_fit(args.out, file)
        task = None if args.targets is None else _read_task(args)
    if args.selector == "ifd":
        _check_prompts(file, "--selector ifd")
    if args.positions == "prompt":
        _check_prompts(file, "--positions prompt")
        if task is not None:
            _check_prompts(task, "--positions prompt")
    with timed("deduplicate"):
        unique = _without_copies(args.deduplicate, file.rows or ())
        _check_enough(args, len(unique))
    with timed("load_model"):
        model = load_model(args.model, args.dtype)
    with timed("tokenize"):
        rows = _usable(args, model, file, unique)
        _check_enough(args, len(rows.at))
        wanted = None if task is None else _usable(args, model, task, np.arange(len(task)))
        costs = rows.tokens.counted
        if args.positions == "prompt":
            costs = np.maximum(tokenize(model, rows.texts, args.max_length).counted, 1)
    limit, n_copies = args.max_length or model.context, len(file) - len(unique)
    args.batch_tokens = args.batch_tokens or here().forward_tokens  # the manifest's
    notes = _notes_on_copies(args.deduplicate, n_copies, rows.texts) + _notes(rows, limit)
    fed = sum(map(len, rows.tokens.ids))
    if wanted is not None:
        notes += _notes(wanted, limit, " of the task")
        fed += sum(map(len, wanted.tokens.ids))
    calls = [] if endpoint is None else [_calls(endpoint, rows.texts)]
    announce(args, rows.tokens.counted, costs, model.dim, notes + calls, model.n_parameters, fed)
    check_fits(rows.tokens.counted, model.dim)
    facts = {
        "pool": str(args.pool),
        "pool_sha256": file_sha256(args.pool),
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "dropped_copies": n_copies,
        "skipped_rows": rows.n_skipped,
        "cut_rows": rows.n_cut,
    }
    if args.targets is not None:
        facts |= {"targets": str(args.targets), "targets_sha256": file_sha256(args.targets)}
    with timed("embed"):
        hidden = _embedded(args, model, rows.tokens, "embedding")
        targets = None
        if wanted is not None:
            targets = _embedded(args, model, wanted.tokens, "embedding the task")
    with timed("score"):
        given = _given(args, model, rows, hidden, endpoint)
        if endpoint is not None:
            kept = endpoint.transcript
            facts |= {"answers": str(kept), "answers_sha256": file_sha256(kept)}
            facts |= {"endpoint_settings": ASK_SETTINGS}
        others = () if targets is None else (targets.tokens,)
        tokens = standardize(hidden.tokens, args.normalize, args.center, *others)
        if targets is not None:
            given["targets"] = targets
    emb = TokenEmbeddings(tokens, hidden.offsets)
    return Pool(file, emb, costs, rows.at, len(file), notes, facts, given)


class _Rows(NamedTuple):
    """Rows of a file that can be used: which, and how many others lack something."""

    at: Int[np.ndarray, "n"]
    texts: list[Example]
    tokens: TokenizedRows
    n_skipped: int
    lacks: str

    @property
    def n_cut(self) -> int:
        """How many of them were cut."""
        return int(self.tokens.cut.sum())


def _read_task(args: argparse.Namespace) -> PoolFile:
    is_text = args.targets.suffix.lower() == ".txt"
    return read_pool(args.targets, Columns(text=None if is_text else args.text_column))


def _check_enough(args: argparse.Namespace, rows: int) -> None:
    if args.n_samples is not None and args.n_samples > rows:
        raise UserError(
            f"--n-samples {args.n_samples}: {args.pool or args.embeddings} has "
            f"{counted(rows, 'row')} to choose from, ask for at most that"
        )


def _check_prompts(file: PoolFile, what: str) -> None:
    if (i := file.first_without_prompt()) is not None:
        raise UserError(f"{file.where(i)} has no prompt: {what} is for prompt + completion rows")


def _without_copies(deduplicate: str, rows: Sequence[Example]) -> Int[np.ndarray, "n"]:
    """Indices of the rows that are no copy of an earlier one."""
    if deduplicate == "none":
        return np.arange(len(rows))
    if deduplicate == "exact":
        return deduplicate_exact(rows)
    with progress("looking for copies", len(rows), "row") as show:
        return deduplicate_near(rows, on_progress=show)


def _usable(
    args: argparse.Namespace, model: LanguageModel, file: PoolFile, at: Int[np.ndarray, "N"]
) -> _Rows:
    """Those of some rows of a file that have what is needed.

    Raises:
        ValueError: there are others and they may not be skipped, or all are.
    """
    assert file.rows is not None
    texts = [file.rows[i] for i in at]
    tokens = tokenize(
        model, texts, args.max_length, args.positions, lambda i: file.where(int(at[i]))
    )
    is_empty, lacks = tokens.counted == 0, "no token to predict"
    if args.selector == "ifd":
        prompts = np.array([bool(row.prompt or (row.is_chat and row.has_prompt)) for row in texts])
        is_empty |= ~prompts | (completions_alone(model, tokens).counted == 0)
        lacks = "no prompt or no token to predict without it"
    empty, some = np.flatnonzero(is_empty), np.flatnonzero(~is_empty)
    if len(empty) and args.on_empty == "error":
        first = ", ".join(file.where(int(at[i])).split(", ")[-1] for i in empty[:5])
        raise UserError(
            f"{file.path}: {len(empty)} row(s) have {lacks} ({first}"
            f"{', ...' if len(empty) > 5 else ''}): pass --on-empty skip to leave "
            "them out, or mend them, or raise --max-length where it cut them"
        )
    if len(some) == 0:
        raise UserError(
            f"{file.path}: no row has a token to predict: give rows two tokens or "
            "more and a completion, or a larger --max-length"
        )
    return _Rows(at[some], [texts[i] for i in some], tokens.take(some), len(empty), lacks)


def _notes_on_copies(deduplicate: str, n_copies: int, texts: Sequence[Example]) -> list[str]:
    if n_copies:
        was = "copy was" if n_copies == 1 else "copies were"
        return [f"{n_copies:,} {deduplicate} {was} dropped."]
    if deduplicate == "none" and (n_equal := len(texts) - len(deduplicate_exact(texts))):
        return [
            f"{counted(n_equal, 'row')} repeat{'s' * (n_equal == 1)} an earlier one: "
            "--deduplicate exact leaves such rows out."
        ]
    return []


def _notes(rows: _Rows, limit: int, whose: str = "") -> list[str]:
    """Sentences on what was skipped and cut."""
    notes = []
    if rows.n_skipped:
        was = "was" if rows.n_skipped == 1 else "were"
        notes.append(f"{counted(rows.n_skipped, 'row')}{whose} with {rows.lacks} {was} skipped.")
    if rows.n_cut:
        was = "was" if rows.n_cut == 1 else "were"
        longer = f"{was} longer than {limit:,} tokens and {was} cut."
        notes.append(f"{counted(rows.n_cut, 'row')}{whose} {longer}")
    return notes


def _embedded(
    args: argparse.Namespace, model: LanguageModel, rows: TokenizedRows, what: str
) -> TokenEmbeddings:
    with progress(what, len(rows.ids), "row") as show:
        tokens = forward(model, rows, args.batch_tokens, show)
    return TokenEmbeddings(tokens, rows.offsets)


def _endpoint(args: argparse.Namespace) -> Endpoint | None:
    """What Ask-LLM asks instead of the model, ready to be asked."""
    if args.endpoint is None:
        return None
    try:
        asked = Endpoint(
            args.endpoint_model, answers_of(args), args.endpoint, settings=ASK_SETTINGS
        )
    except ValueError as error:
        raise UserError(f"--endpoint: {error}") from None
    _ = asked.client  # a missing key is told now
    return asked


def _calls(endpoint: Endpoint, texts: Sequence[Example]) -> str:
    """What asking about these rows will take, in a sentence."""
    plan = endpoint.dry_run(ask_questions(texts), 0, 0)
    return (
        f"{endpoint.model} at {endpoint.base_url} is asked {counted(plan.n_calls, 'question')} of "
        f"about {plan.tokens_in:,} tokens in all, one by one, beyond that time; answers "
        f"are kept in {endpoint.transcript}."
    )


def _given(
    args: argparse.Namespace,
    model: LanguageModel,
    rows: _Rows,
    hidden: TokenEmbeddings,
    endpoint: Endpoint | None,
) -> dict[str, Any]:
    """What the selector needs to be told by the model."""
    selector = ALL_SELECTORS.get(args.selector)
    needs = [n for n in selector.needs if n != "targets"] if selector else []
    if not needs:
        return {}
    asks_again = bool({"quality", "ifd"} & {*needs})
    total, unit = (len(rows.texts), "row") if asks_again else (len(hidden.tokens), "token")
    with progress("scoring", total, unit) as show:
        inputs = Inputs(
            hidden,
            model.module.head,
            labels_of(rows.tokens),
            rows.texts,
            model,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            endpoint=endpoint,
            on_progress=show,
        )
        return {needed: inputs[needed] for needed in needs}
