"""The pool of `fisher-select` in memory: read, embedded, with what its selector needs beside."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fisher_jax.arguments import ALL_SELECTORS
from fisher_jax.data import PoolFile, Row, check_columns_fit, read_embeddings, read_pool
from fisher_jax.design import TokenEmbeddings
from fisher_jax.duplicates import deduplicate_exact, deduplicate_near
from fisher_jax.embed import TokenizedRows, forward, standardize, tokenize
from fisher_jax.inputs import Inputs
from fisher_jax.messages import announce, progress
from fisher_jax.models.load import LanguageModel, file_sha256, load_model
from fisher_jax.report import counted
from fisher_jax.scores import completions_alone, labels_of


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
        raise ValueError(
            f"{args.embeddings} has {len(emb)} examples, {args.pool} has "
            f"{len(file)} rows: they must be the same rows in the same order"
        )
    if file is not None:
        check_columns_fit(args.out, file)
    announce(args, emb.lengths, emb.dim, [], forward_flops=0.0)
    tokens = standardize(np.array(emb.tokens), args.normalize, args.center)
    facts = {"embeddings": str(args.embeddings), "embeddings_sha256": file_sha256(args.embeddings)}
    if args.pool is not None:
        facts |= {"pool": str(args.pool), "pool_sha256": file_sha256(args.pool)}
    emb = TokenEmbeddings(tokens, emb.offsets)
    return Pool(file, emb, emb.lengths, np.arange(len(emb)), len(emb), [], facts, {})


def pool_of_text(args: argparse.Namespace, timed: Callable) -> Pool:
    """From a file of text, embedded by a model."""
    with timed("read"):
        file = read_pool(args.pool, args.text_column)
        check_columns_fit(args.out, file)
        task = read_pool(args.targets, args.text_column) if args.targets else None
    all_rows = _text_rows(file)
    if args.selector == "ifd" and any(isinstance(row, str) for row in all_rows):
        raise ValueError(f"{args.pool}: --selector ifd is for prompt + completion rows")
    with timed("deduplicate"):
        unique = _without_copies(args.deduplicate, all_rows)
    candidates = [all_rows[i] for i in unique]
    with timed("load_model"):
        model = load_model(args.model, args.dtype)
    with timed("tokenize"):
        tokenized = tokenize(model, candidates, args.max_length, args.positions)
        costs = tokenized.counted
        if args.positions == "prompt":
            costs = tokenize(model, candidates, args.max_length).counted
        wanted = None
        if task is not None:
            wanted = tokenize(model, _text_rows(task), args.max_length, args.positions)
            some = _not_empty(
                args, Path(args.targets), task, np.arange(len(task)), wanted.counted == 0
            )
            wanted = wanted.take(some)
    is_empty, lacks = _empty(args, model, candidates, tokenized)
    some = _not_empty(args, args.pool, file, unique, is_empty, lacks)
    kept, rows, texts = tokenized.take(some), unique[some], [candidates[i] for i in some]
    n_cut = tokenized.n_cut
    if len(some) < len(candidates):  # a row counts once, as skipped
        skipped = [candidates[i] for i in np.flatnonzero(is_empty)]
        n_cut -= tokenize(model, skipped, args.max_length, args.positions).n_cut
    counts = {
        "dropped_copies": len(file) - len(unique),
        "skipped_rows": len(candidates) - len(some),
        "cut_rows": n_cut,
    }
    limit = args.max_length or model.context
    notes = _notes(args.deduplicate, counts, texts, lacks, limit)
    fed = sum(len(ids) for part in (kept, wanted) if part is not None for ids in part.ids)
    announce(args, kept.counted, model.dim, notes, forward_flops=2.0 * model.n_parameters * fed)
    with timed("embed"):
        hidden = _embedded(args, model, kept, "embedding")
        targets = None if wanted is None else _embedded(args, model, wanted, "embedding the task")
    with timed("score"):
        given = _given(args, model, texts, kept, hidden)
        others = () if targets is None else (targets.tokens,)
        tokens = standardize(hidden.tokens, args.normalize, args.center, *others)
        if targets is not None:
            given["targets"] = targets
    facts = {
        "pool": str(args.pool),
        "pool_sha256": file_sha256(args.pool),
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
    } | counts
    if task is not None:
        facts |= {"targets": str(args.targets), "targets_sha256": file_sha256(Path(args.targets))}
    emb = TokenEmbeddings(tokens, hidden.offsets)
    return Pool(file, emb, np.maximum(costs[some], 1), rows, len(file), notes, facts, given)


def _text_rows(file: PoolFile) -> list[Row]:
    assert file.rows is not None
    return list(file.rows)


def _without_copies(deduplicate: str, rows: Sequence[Row]) -> Int[np.ndarray, "n"]:
    """Indices of the rows that are no copy of an earlier one."""
    if deduplicate == "none":
        return np.arange(len(rows))
    if deduplicate == "exact":
        return deduplicate_exact(rows)
    with progress("looking for copies", len(rows), "row") as show:
        return deduplicate_near(rows, on_progress=show)


def _empty(
    args: argparse.Namespace, model: LanguageModel, rows: list[Row], tokenized: TokenizedRows
) -> tuple[Bool[np.ndarray, "N"], str]:
    """Which rows can't be used, and what they lack."""
    is_empty = tokenized.counted == 0
    if args.selector != "ifd":
        return is_empty, "no token to predict"
    prompts = np.array([not isinstance(row, str) and bool(row.prompt) for row in rows])
    is_empty |= ~prompts | (completions_alone(model, tokenized).counted == 0)
    return is_empty, "no prompt or no token to predict without it"


def _not_empty(
    args: argparse.Namespace,
    path: Path,
    file: PoolFile,
    rows: Int[np.ndarray, "N"],
    is_empty: Bool[np.ndarray, "N"],
    lacks: str = "no token to predict",
) -> Int[np.ndarray, "n"]:
    """Places of the rows to use.

    Raises:
        ValueError: there are others and they may not be skipped, or all are.
    """
    empty = np.flatnonzero(is_empty)
    if len(empty) and args.on_empty == "error":
        first = ", ".join(file.where(int(rows[i])).split(", ")[-1] for i in empty[:5])
        raise ValueError(
            f"{path}: {len(empty)} row(s) have {lacks} ({first}"
            f"{', ...' if len(empty) > 5 else ''}): pass --on-empty skip to leave "
            "them out, or mend them"
        )
    if is_empty.all():
        raise ValueError(
            f"{path}: no row has a token to predict: give rows two tokens or "
            "more and a completion, or a larger --max-length"
        )
    return np.flatnonzero(~is_empty)


def _notes(
    deduplicate: str, counts: dict[str, int], texts: list[Row], lacks: str, limit: int
) -> list[str]:
    """Sentences on copies, skipped rows and cut ones."""
    notes, (n_copies, n_skipped, n_cut) = [], counts.values()
    if n_copies:
        was = "copy was" if n_copies == 1 else "copies were"
        notes.append(f"{n_copies:,} {deduplicate} {was} dropped.")
    if deduplicate == "none" and (n_equal := len(texts) - len(deduplicate_exact(texts))):
        notes.append(
            f"{counted(n_equal, 'row')} repeat{'s' * (n_equal == 1)} an earlier one: "
            "--deduplicate exact leaves such rows out."
        )
    if n_skipped:
        was = "was" if n_skipped == 1 else "were"
        notes.append(f"{counted(n_skipped, 'row')} with {lacks} {was} skipped.")
    if n_cut:
        was = "was" if n_cut == 1 else "were"
        notes.append(f"{counted(n_cut, 'row')} {was} longer than {limit:,} tokens and {was} cut.")
    return notes


def _embedded(
    args: argparse.Namespace, model: LanguageModel, rows: TokenizedRows, what: str
) -> TokenEmbeddings:
    with progress(what, len(rows.ids), "row") as show:
        tokens: Float[np.ndarray, "T D"] = forward(model, rows, args.batch_tokens, show)
    return TokenEmbeddings(tokens, np.concatenate([[0], np.cumsum(rows.counted)]))


def _given(
    args: argparse.Namespace,
    model: LanguageModel,
    texts: list[Row],
    rows: TokenizedRows,
    hidden: TokenEmbeddings,
) -> dict[str, Any]:
    """What the selector needs to be told by the model."""
    needs = [] if args.selector is None else ALL_SELECTORS[args.selector].needs
    needs = [n for n in needs if n != "targets"]
    if not needs:
        return {}
    asks_again = bool({"quality", "ifd"} & {*needs})
    total, unit = (len(texts), "row") if asks_again else (len(hidden.tokens), "token")
    with progress("scoring", total, unit) as show:
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
