"""`choose`: the whole path from rows to a selection, and its two halves."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fisher_jax.design import Budget, Selection, certify, draw_fisher, evaluate
from fisher_jax.pipeline.choice import Choice
from fisher_jax.pipeline.clock import Clock, OnStep
from fisher_jax.pipeline.embedding import Shard
from fisher_jax.pipeline.pool import EmbeddedPool
from fisher_jax.pipeline.ready import ReadyPool, read_ready
from fisher_jax.pipeline.request import Request, Rows
from fisher_jax.pipeline.sources import check_part
from fisher_jax.pipeline.text import TextPool, read_text
from fisher_jax.selectors import SELECTORS, Rule
from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import counted
from fisher_jax.util.platforms import check_platform
from fisher_jax.util.progress import OnProgress


def choose(
    pool: Rows | None = None, *, on_progress: OnStep | None = None, **options: Any
) -> Choice:
    """Choose rows of a pool: all that the command `fisher-select` does, as values.

        choice = choose(rows, model="smollm2-135m", fraction=0.1)
        choice.ranking, choice.gains   # rows in order of choice; nats
        choice.write("chosen.jsonl")   # the rows and a report, as the command writes them

    Args:
        pool: rows, or the path of a file of them, see `Request`.
        on_progress: called with a `Step` whenever there is news.
        options: fields of `Request`: `model` or `embeddings`, one of `n_samples`, `fraction` and
            `token_budget`, and what else is not as usual.

    Raises:
        UserError: an option, a file, a row or the model that can't be used; the message names it
            and says what to do.
        TypeError: an option that `Request` doesn't have.
    """
    clock = Clock(on_progress)
    return finish(prepare(Request(pool=pool, **options), clock), clock)


def prepare(request: Request, clock: Clock) -> TextPool | ReadyPool:
    """Everything that is quick: read, without copies, tokenised; its `plan` tells what is to come.

    Raises:
        UserError: what `choose` refuses.
    """
    check_platform()
    _mesh(request)
    check_part(request)
    return read_ready(request, clock) if request.model is None else read_text(request, clock)


def finish(prepared: TextPool | ReadyPool, clock: Clock) -> Choice:
    """Everything that takes its time: embed, score, select.

    Raises:
        UserError: embeddings that are not finite, an endpoint that doesn't answer.
    """
    request, total = prepared.request, prepared.plan.total
    pool = prepared.embedded(clock)
    unit = "row" if request.token_budget is None else "token"
    unit = unit if request.cost_column is None else "unit"
    with clock.timed("select"):
        show = clock.counting("selecting", math.ceil(total), unit)
        selection, weights = _selected(request, pool, show)
        show(math.ceil(_spent(pool, selection)))
    share, others = None, {}
    if request.certify:
        with clock.timed("certify"):
            told = pool.budget | _quality(request, pool)
            share = certify(pool.added.in_memory(), selection.ranking, request.ridge, **told)
    if request.compare:
        with clock.timed("select_others"):
            show = clock.counting("selecting by other rules", len(request.compare), "rule")
            for done, name in enumerate(request.compare, start=1):
                others[name] = _by(SELECTORS[name], request, pool)
                show(done)
    return Choice(request, pool, selection, weights, share, clock, others)


def _spent(pool: EmbeddedPool, selection: Selection) -> float:
    """Of the budget."""
    costs = pool.budget.get("costs", np.ones(len(pool.emb)))
    return float(costs[selection.ranking].sum())


def _quality(request: Request, pool: EmbeddedPool) -> dict[str, Any]:
    if pool.values.quality is None:
        return {}
    return {"quality": pool.values.quality, "quality_weight": request.quality_weight}


def _mesh(request: Request) -> Mesh | None:
    """The devices over which a pool is divided, of all processes; None for one alone.

    Raises:
        UserError: there are not so many, or none of them is this process's.
    """
    if request.devices == 1:
        return None
    if (there := jax.device_count()) < request.devices:
        raise UserError(
            f"`devices={request.devices}`: JAX sees {counted(there, 'device')}, ask for as many"
        )
    if request.devices < there and jax.process_count() > 1:
        raise UserError(
            f"`devices={request.devices}`: {jax.process_count()} processes have {there}, pass that"
        )
    return Mesh(jax.devices()[: request.devices], "pool")


def embed_pool(prepared: TextPool, clock: Clock, part: tuple[int, int] = (1, 1)) -> str:
    """Embed the rows that the cache lacks, or part i of k of them; what is there, in a line.

    Raises:
        UserError: no cache that could keep them, embeddings that are not finite.
    """
    cached = prepared.cached.get("pool")
    if cached is None:
        raise UserError(prepared.kept or "embed fills a cache: name one as `cache=DIR`")
    n = len(prepared.usable.at)
    cached.embed(clock.counting("embedding", n, "row"), Shard(*part))
    left, of = n - len(cached.absent), "" if part[1] == 1 else f", part {part[0]} of {part[1]} done"
    return f"{left:,} of {counted(n, 'row')} embedded, {cached.store.folder}{of}"


def check_embedded(prepared: TextPool | ReadyPool) -> None:
    """Refuse a pool of which the cache lacks rows.

    Raises:
        UserError: with their number.
    """
    if isinstance(prepared, TextPool):
        cached, n = prepared.cached.get("pool"), len(prepared.usable.at)
        if cached is None or len(cached.absent):
            lacking = n if cached is None else len(cached.absent)
            raise UserError(
                f"{lacking:,} of {counted(n, 'row')} are not embedded: run fisher-select embed "
                "with the same options first, or leave the word select out"
            )


def _selected(
    request: Request, pool: EmbeddedPool, show: OnProgress
) -> tuple[Selection, np.ndarray | None]:
    """The selection and, of `fisher_random`, the rows' weights."""
    ridge, seed, rule = request.ridge, request.seed, request.rule
    if rule.name == "fisher_random":
        emb = pool.added.in_memory()
        drawn = draw_fisher(emb, Budget.of(emb, **pool.budget), ridge=ridge, seed=seed)
        return evaluate(emb, drawn.ranking, ridge), drawn.weights
    return _by(rule, request, pool, show), None


def _by(
    rule: Rule, request: Request, pool: EmbeddedPool, show: OnProgress | None = None
) -> Selection:
    """What a rule chooses for the request's budget."""
    told = {name: value for name, value in pool.scores.items() if name in rule.takes}
    if rule.weighs:
        told |= _quality(request, pool)
    if rule.divides:
        told["mesh"] = _mesh(request)
    terms = {"ridge": request.ridge, "seed": request.seed, "on_progress": show}
    if rule.adds or pool.added is pool.emb:
        return rule(pool.added, **pool.budget, **terms, **told)
    chosen = rule(pool.emb, **pool.budget, **terms, **told)  # without a look at initial rows
    return evaluate(pool.added, chosen.ranking, request.ridge)
