"""A pool of text: read, without copies, as tokens of a model, and then embedded by it."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from fisher_jax.data.embedding_store import StoredEmbeddings
from fisher_jax.data.pool_file import PoolFile
from fisher_jax.design import TokenEmbeddings
from fisher_jax.design.projection import projection
from fisher_jax.models import (
    LanguageModel,
    TokenizedRows,
    file_sha256,
    forward,
    load_model,
    passes_of,
    tokenize,
    word,
)
from fisher_jax.models.chat import writes_tools
from fisher_jax.pipeline.cache import Cache
from fisher_jax.pipeline.clock import Clock
from fisher_jax.pipeline.copies import note_on_equal_rows, without_copies
from fisher_jax.pipeline.embedding import CachedRows, cached_rows
from fisher_jax.pipeline.plan import Plan, check_enough, plan, spending
from fisher_jax.pipeline.pool import EmbeddedPool, notes_on_choosing, standardized
from fisher_jax.pipeline.request import Request, path_of
from fisher_jax.pipeline.row_values import RowValues, read_values
from fisher_jax.pipeline.sources import facts_of, notes_of, read_rows
from fisher_jax.pipeline.usable import Usable, usable
from fisher_jax.scoring import ASK_SETTINGS, BY_ROW, Endpoint, Inputs, ask_questions, labels_of
from fisher_jax.selectors import SELECTORS
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.platforms import here

BESIDE = {"targets": "the task", "initial": "the initial set"}  # and how they are spoken of


class TextPool(NamedTuple):
    """A pool as tokens of its model.

    Attributes:
        request: with the `batch_tokens` that are used.
        file: as read.
        model: that embeds it.
        usable: the rows that can be used.
        beside: those of `targets` and of `initial`, if the request has some.
        costs: (N,) tokens to learn of each row.
        budget: what may be spent, as rules take it.
        values: what columns say of each row.
        plan: what is to come.
        notes: what was left out or cut, in sentences.
        facts: for the manifest.
        endpoint: what `ask_llm` asks instead of the model.
        cached: the rows in the cache, if there is one that keeps them, and by name those beside.
        kept: what is to be told of the cache, in sentences.
    """

    request: Request
    file: PoolFile
    model: LanguageModel
    usable: Usable
    beside: dict[str, Usable]
    costs: Int[np.ndarray, "N"]
    budget: dict[str, Any]
    values: RowValues
    plan: Plan
    notes: list[str]
    facts: dict[str, Any]
    endpoint: Endpoint | None
    cached: dict[str, CachedRows]
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
        """Embeddings of the rows, centred, scaled and projected, and what the selector needs."""
        with clock.timed("embed"):
            hidden = _embedded(self, "pool", self.usable.tokens, "embedding", clock)
            beside = {
                name: _embedded(
                    self, name, of.tokens, f"embedding {BESIDE[name]}", clock
                ).in_memory()
                for name, of in self.beside.items()
            }
        scores: dict[str, Any] = {}
        targets = None
        with clock.timed("score"):
            if self.plan.streams and isinstance(hidden, StoredEmbeddings):
                request = self.request
                emb = added = hidden.standardized(request.center, request.normalize)
                if request.project_dim is not None:
                    to = projection(emb.dim, request.project_dim, request.seed)
                    emb = added = emb.projected(to)
            else:
                hidden = hidden.in_memory()
                scores = _scores(self, hidden, clock)
                emb, added, targets = standardized(self.request, hidden, beside)
        if targets is not None:
            scores["targets"] = targets
        facts = self.facts | _facts_of_answers(self.endpoint)
        rows, n_rows = self.usable.at, len(self.file)
        return EmbeddedPool(
            self.file,
            emb,
            added,
            self.costs,
            self.budget,
            self.values,
            rows,
            n_rows,
            self.notes,
            facts,
            scores,
            self._task_preview if "targets" in self.beside else None,
            functools.partial(word, self.model, self.usable.tokens),
        )

    def _task_preview(self, q: int) -> str:
        return str(self.beside["targets"].texts[q].preview())


def read_text(request: Request, clock: Clock) -> TextPool:
    """Read the pool and its task, leave copies out, load the model and tokenise.

    Raises:
        UserError: a file, a row, the model or the endpoint can't be used, or all of it is too much
            for this machine.
    """
    assert request.pool is not None
    cache, endpoint = Cache.of(request.cache, request.cache_dtype), _endpoint(request)
    with clock.timed("read"):
        pool, files = _read(request)
    kept = without_copies(request, len(pool), pool, None, clock)
    check_enough(request, len(kept.at), pool.path)
    pool, at, values = read_values(request, pool, kept.at)
    check_enough(request, len(at), pool.path)
    with clock.timed("load_model"):
        model = request.model
        if not isinstance(model, LanguageModel):
            model = load_model(str(model), request.dtype)
    with clock.timed("tokenize"):
        rows = usable(request, model, pool, at)
        check_enough(request, len(rows.at), pool.path)
        beside = {
            name: usable(request, model, file, np.arange(len(file))) for name, file in files.items()
        }
        costs = rows.tokens.counted
        if request.positions == "prompt":
            costs = np.maximum(
                tokenize(model, rows.texts, request.max_length, eos=request.eos).counted, 1
            )
        at_once = request.batch_tokens or here().forward_tokens
        cached, told = {}, ""
        for name, of in {"pool": rows, **beside}.items():
            kept_rows, said = cached_rows(cache, model, of.tokens, at_once)
            told = told or said
            if kept_rows is not None:
                cached[name] = kept_rows
    limit = request.max_length or model.context
    notes = _notes_on_rows(pool, model, rows) + kept.notes
    notes += note_on_equal_rows(rows.texts, request.deduplicate) + rows.notes(limit)
    notes += notes_on_choosing(request, model.dim)
    facts = _facts(pool, model, rows) | kept.facts
    for name, of in beside.items():
        notes += notes_of(files[name]) + of.notes(limit, f" of {BESIDE[name]}")
        facts |= facts_of(name, files[name])
    values = values.take(np.searchsorted(at, rows.at))
    request = dataclasses.replace(request, batch_tokens=at_once)
    fed = [
        of.tokens.take(cached[name].absent) if name in cached else of.tokens
        for name, of in {"pool": rows, **beside}.items()
    ]
    planned = plan(
        request,
        rows.tokens.counted,
        costs,
        model.dim,
        model.n_parameters,
        n_fed=sum(len(ids) for tokens in fed for ids in tokens.ids),
        n_passes=sum(len(passes_of(model, tokens, at_once)) for tokens in fed),
        values=values,
        has_cache="pool" in cached,
    )
    budget = spending(request, costs, values, planned.total)
    return TextPool(
        request,
        pool,
        model,
        rows,
        beside,
        costs,
        budget,
        values,
        planned,
        notes,
        facts,
        endpoint,
        cached,
        told,
    )


def _read(request: Request) -> tuple[PoolFile, dict[str, PoolFile]]:
    """The pool, and the files beside it."""
    pool = read_rows("pool", request)
    beside = {
        name: read_rows(name, request) for name in BESIDE if getattr(request, name) is not None
    }
    if "ifd" in request.asked:
        _check_prompts(pool, f"`{'selector' if request.selector == 'ifd' else 'compare'}=ifd`")
    if request.positions == "prompt":
        for file in (pool, *beside.values()):
            _check_prompts(file, "`positions=prompt`")
    return pool, beside


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
    pool: TextPool, name: str, tokens: TokenizedRows, what: str, clock: Clock
) -> TokenEmbeddings | StoredEmbeddings:
    show = clock.counting(what, len(tokens.ids), "row")
    if (cached := pool.cached.get(name)) is not None:
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
        eos=pool.request.eos,
        batch_tokens=pool.request.batch_tokens,
        endpoint=pool.endpoint,
        on_progress=clock.counting("scoring", total, unit),
    )
    kept = pool.cached.get("pool")

    def scored(name: str) -> Any:
        is_kept = name in BY_ROW and (name != "quality" or pool.endpoint is None)
        if kept is None or not is_kept:  # an endpoint's answers have a file of their own
            return inputs[name]
        of = pool.request
        told = f"{of.max_length} {of.eos} {pool.model.tokenizer_sha256} {pool.usable.texts}"
        return kept.numbers(name, told, lambda: inputs[name])

    return {name: scored(name) for name in needs}


def _notes_on_rows(file: PoolFile, model: LanguageModel, rows: Usable) -> list[str]:
    """Sentences on what could not be used, or is replaced or left out by the template."""
    notes = notes_of(file)
    if file.replaced:
        notes.append(f"Columns {', '.join(file.replaced)} of an earlier selection are replaced.")
    n_tools = sum(row.tools is not None for row in rows.texts)
    if n_tools and not writes_tools(model):
        notes.append(
            f"{counted(n_tools, 'row')} with tools: {model.name}'s chat template leaves them out."
        )
    return notes


def _facts(pool: PoolFile, model: LanguageModel, rows: Usable) -> dict[str, Any]:
    """Of the manifest."""
    return facts_of("pool", pool) | {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "skipped_rows": rows.n_skipped,
        "cut_rows": rows.n_cut,
    }


def _facts_of_answers(endpoint: Endpoint | None) -> dict[str, Any]:
    """The same, once an endpoint has answered."""
    if endpoint is None:
        return {}
    kept = endpoint.transcript
    return {
        "answers": str(kept),
        "answers_sha256": file_sha256(kept),
        "endpoint_settings": ASK_SETTINGS,
    }
