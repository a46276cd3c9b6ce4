"""A pool of text: read, without copies, as tokens of a model, and then embedded by it."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.duplicates import unique
from fisher_jax.data.embedding_store import StoredEmbeddings
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings
from fisher_jax.models import (
    LanguageModel,
    TokenizedRows,
    file_sha256,
    forward,
    load_model,
    standardize,
    tokenize,
    word,
)
from fisher_jax.models.chat import writes_tools
from fisher_jax.pipeline.cache import Cache
from fisher_jax.pipeline.clock import Clock
from fisher_jax.pipeline.embedding import CachedRows, cached_rows
from fisher_jax.pipeline.plan import Plan, check_enough, plan
from fisher_jax.pipeline.pool import EmbeddedPool
from fisher_jax.pipeline.request import Request, is_plain, path_of, without_columns
from fisher_jax.pipeline.sources import facts_of, read_rows
from fisher_jax.pipeline.usable import Usable, usable
from fisher_jax.scoring import ASK_SETTINGS, BY_ROW, Endpoint, Inputs, ask_questions, labels_of
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.platforms import here


class TextPool(NamedTuple):
    """A pool as tokens of its model.

    Attributes:
        request: with the `batch_tokens` that are used.
        file: as read.
        n_copies: rows of it that were left out as copies.
        model: that embeds it.
        usable: the rows that can be used.
        task_file: of `targets`, if the request has some.
        task: those of its rows that can be used.
        costs: (N,) tokens to learn of each row.
        plan: what is to come.
        notes: what was left out or cut, in sentences.
        endpoint: what `ask_llm` asks instead of the model.
        cached: the rows in the cache, if there is one that keeps them; those of the task.
        kept: what is to be told of the cache, in sentences.
    """

    request: Request
    file: PoolFile
    n_copies: int
    model: LanguageModel
    usable: Usable
    task_file: PoolFile | None
    task: Usable | None
    costs: Int[np.ndarray, "N"]
    plan: Plan
    notes: list[str]
    endpoint: Endpoint | None
    cached: tuple[CachedRows | None, CachedRows | None]
    kept: str

    @property
    def reading(self) -> str:
        """As what the rows were read, and which share of their tokens counts, in a sentence."""
        tokens = self.usable.tokens
        share = tokens.counted.sum() / max(1, sum(map(len, tokens.ids)))
        return f"Read as {self.file.shape}: {share:.0%} of the tokens count."

    @property
    def calls(self) -> str:
        """What asking the endpoint will take, in a sentence; empty without one."""
        endpoint = self.endpoint
        if endpoint is None:
            return ""
        estimate = endpoint.dry_run(ask_questions(self.usable.texts), 0, 0)
        return (
            f"{endpoint.model} at {endpoint.base_url} is asked "
            f"{counted(estimate.n_calls, 'question')} of about {estimate.tokens_in:,} tokens in "
            f"all, one by one, beyond that time; answers are kept in {endpoint.transcript}."
        )

    def embedded(self, clock: Clock) -> EmbeddedPool:
        """Embeddings of the rows, centred and scaled, and what the selector needs beside them."""
        request, targets = self.request, None
        with clock.timed("embed"):
            hidden = _embedded(self, self.usable.tokens, self.cached[0], "embedding", clock)
            if self.task is not None:
                task = self.task.tokens
                targets = _embedded(self, task, self.cached[1], "embedding the task", clock).load()
        scores: dict[str, Any] = {}
        with clock.timed("score"):
            if self.plan.streams and isinstance(hidden, StoredEmbeddings):
                emb = hidden.standardized(request.center, request.normalize)
            else:
                hidden = hidden.load()
                scores = _scores(self, hidden, clock)
                others = () if targets is None else (targets.tokens,)
                tokens = standardize(hidden.tokens, request.normalize, request.center, *others)
                emb = TokenEmbeddings(tokens, hidden.offsets)
        if targets is not None:
            scores["targets"] = targets
        return EmbeddedPool(
            self.file,
            emb,
            self.costs,
            self.usable.at,
            len(self.file),
            self.notes,
            _facts(self),
            scores,
            None if self.task is None else self._task_preview,
            functools.partial(word, self.model, self.usable.tokens),
        )

    def _task_preview(self, q: int) -> str:
        assert self.task is not None and self.task_file is not None
        return self.task_file.preview(int(self.task.at[q]))


def read_text(request: Request, clock: Clock) -> TextPool:
    """Read the pool and its task, leave copies out, load the model and tokenise.

    Raises:
        UserError: a file, a row, the model or the endpoint can't be used, or all of it is too much
            for this machine.
    """
    assert request.pool is not None
    cache, endpoint = Cache.of(request.cache), _endpoint(request)
    with clock.timed("read"):
        pool, task = _read(request)
    with clock.timed("deduplicate"):
        assert pool.rows is not None
        show = None
        if request.deduplicate == "near":
            show = clock.counting("looking for copies", len(pool), "row")
        kept = unique(pool.rows, request.deduplicate, show)
        check_enough(request, len(kept), pool.path)
    with clock.timed("load_model"):
        model = request.model
        if not isinstance(model, LanguageModel):
            model = load_model(str(model), request.dtype)
    with clock.timed("tokenize"):
        rows = usable(request, model, pool, kept)
        check_enough(request, len(rows.at), pool.path)
        of_task = None if task is None else usable(request, model, task, np.arange(len(task)))
        costs = rows.tokens.counted
        if request.positions == "prompt":
            costs = np.maximum(
                tokenize(model, rows.texts, request.max_length, eos=request.eos).counted, 1
            )
        at_once = request.batch_tokens or here().forward_tokens
        cached, told = cached_rows(cache, model, rows.tokens, at_once)
        cached_task = None
        if cached is not None and of_task is not None:
            cached_task, _ = cached_rows(cache, model, of_task.tokens, at_once)
    limit, n_copies = request.max_length or model.context, len(pool) - len(kept)
    notes = _notes_on_rows(pool, model, rows)
    notes += _notes_on_copies(request.deduplicate, n_copies, rows) + rows.notes(limit)
    absent = range(len(rows.at)) if cached is None else cached.absent
    n_fed = sum(len(rows.tokens.ids[i]) for i in absent)
    if of_task is not None:
        notes += of_task.notes(limit, " of the task")
        n_fed += sum(map(len, of_task.tokens.ids))
    request = dataclasses.replace(request, batch_tokens=at_once)
    lengths, of_model = rows.tokens.counted, (model.dim, model.n_parameters)
    planned = plan(request, lengths, costs, *of_model, n_fed, cached is not None)
    return TextPool(
        *(request, pool, n_copies, model, rows, task, of_task, costs, planned, notes, endpoint),
        (cached, cached_task),
        told,
    )


def _read(request: Request) -> tuple[PoolFile, PoolFile | None]:
    """The pool and the task; plain text has no column, so then the columns are the other's."""
    assert request.pool is not None
    pool_request = request
    if request.targets is not None and is_plain(request.pool):
        pool_request = without_columns(request)
    pool = read_rows(request.pool, "pool", pool_request)
    task = None
    if request.targets is not None:
        task_request = without_columns(request) if is_plain(request.targets) else request
        task = read_rows(request.targets, "targets", task_request)
    if "ifd" in request.asked:
        _check_prompts(pool, f"`{'selector' if request.selector == 'ifd' else 'compare'}=ifd`")
    if request.positions == "prompt":
        for file in (pool, task):
            if file is not None:
                _check_prompts(file, "`positions=prompt`")
    return pool, task


def _check_prompts(file: PoolFile, what: str) -> None:
    if (i := file.first_without_prompt()) is not None:
        raise UserError(f"{file.where(i)} has no prompt: {what} is for prompt + completion rows")


def _endpoint(request: Request) -> Endpoint | None:
    """What Ask-LLM asks instead of the model, ready to be asked."""
    if request.endpoint is None:
        return None
    answers = path_of(request.answers)
    assert request.endpoint_model is not None and answers is not None
    try:
        endpoint = Endpoint(
            request.endpoint_model, answers, request.endpoint, settings=ASK_SETTINGS
        )
    except UserError as error:
        raise UserError(f"`endpoint`: {error}") from None
    _ = endpoint.client  # a missing key is told now
    return endpoint


def _embedded(
    pool: TextPool, tokens: TokenizedRows, cached: CachedRows | None, what: str, clock: Clock
) -> TokenEmbeddings | StoredEmbeddings:
    show = clock.counting(what, len(tokens.ids), "row")
    if cached is not None:
        try:
            cached.embed(show)
            return cached.view()
        except OSError:
            if not cached.is_optional or pool.plan.streams:
                raise  # else the user's cache is full or gone meanwhile, and only time is lost
    states = forward(pool.model, tokens, pool.request.batch_tokens, show)
    return TokenEmbeddings(states, tokens.offsets)


def _scores(pool: TextPool, hidden: TokenEmbeddings, clock: Clock) -> dict[str, Any]:
    """What the selector, and those compared with it, need to be told by the model."""
    asked = [need for name in pool.request.asked for need in SELECTORS[name].needs]
    needs = [need for need in dict.fromkeys(asked) if need != "targets"]
    if not needs:
        return {}
    asks_again = bool({"quality", "ifd"} & {*needs})
    total, unit = (len(pool.usable.texts), "row") if asks_again else (len(hidden.tokens), "token")
    inputs = Inputs(
        hidden,
        pool.model.module.head,
        labels_of(pool.usable.tokens),
        pool.usable.texts,
        pool.model,
        max_length=pool.request.max_length,
        batch_tokens=pool.request.batch_tokens,
        endpoint=pool.endpoint,
        on_progress=clock.counting("scoring", total, unit),
    )
    kept = pool.cached[0]
    told = f"{pool.request.max_length} {pool.model.tokenizer_sha256} {pool.usable.texts}"

    def scored(name: str) -> Any:
        is_kept = name in BY_ROW and (name != "quality" or pool.endpoint is None)
        if kept is None or not is_kept:  # an endpoint's answers have a file of their own
            return inputs[name]
        return kept.numbers(name, told, lambda: inputs[name])

    return {name: scored(name) for name in needs}


def _notes_on_rows(file: PoolFile, model: LanguageModel, rows: Usable) -> list[str]:
    """Sentences on what could not be used, or is replaced or left out by the template."""
    notes = []
    if file.bad:
        first = "; ".join(file.bad[:3])
        more = "; ..." if len(file.bad) > 3 else ""
        notes.append(f"{counted(len(file.bad), 'bad row')} left out ({first}{more}).")
    if file.replaced:
        notes.append(f"Columns {', '.join(file.replaced)} of an earlier selection are replaced.")
    n_tools = sum(row.tools is not None for row in rows.texts)
    if n_tools and not writes_tools(model):
        notes.append(
            f"{counted(n_tools, 'row')} with tools: {model.name}'s chat template leaves them out."
        )
    return notes


def _notes_on_copies(deduplicate: str, n_copies: int, rows: Usable) -> list[str]:
    if n_copies:
        was = "copy was" if n_copies == 1 else "copies were"
        return [f"{n_copies:,} {deduplicate} {was} dropped."]
    n_equal = 0
    if deduplicate == "none":
        n_equal = len(rows.texts) - len(unique(rows.texts, "exact"))
    if n_equal:
        return [
            f"{counted(n_equal, 'row')} repeat{'s' * (n_equal == 1)} an earlier one: "
            "exact deduplication leaves such rows out."
        ]
    return []


def _facts(pool: TextPool) -> dict[str, Any]:
    """Of the manifest."""
    model, endpoint = pool.model, pool.endpoint
    facts = facts_of("pool", pool.file) | {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "dropped_copies": pool.n_copies,
        "skipped_rows": pool.usable.n_skipped,
        "cut_rows": pool.usable.n_cut,
    }
    facts |= facts_of("targets", pool.task_file)
    if endpoint is not None:
        kept = endpoint.transcript
        facts |= {"answers": str(kept), "answers_sha256": file_sha256(kept)}
        facts |= {"endpoint_settings": ASK_SETTINGS}
    return facts
