"""What `fisher-select` does with its arguments: the pipeline's work, told on stderr."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from fisher_jax.command import interruption
from fisher_jax.command.arguments import flags
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.command.errors import in_flags
from fisher_jax.command.messages import Bars
from fisher_jax.command.replay import changed_since
from fisher_jax.command.words import NAME
from fisher_jax.data.output import check_columns_fit
from fisher_jax.models import shown
from fisher_jax.pipeline import Clock, Output, Request, finish, prepare
from fisher_jax.pipeline.ready import ReadyPool
from fisher_jax.pipeline.run import check_embedded, embed_pool
from fisher_jax.pipeline.text import TextPool
from fisher_jax.report.likeness import import_libraries
from fisher_jax.util.errors import UserError
from fisher_jax.util.user_folder import CACHE_SWITCH


def work(args: argparse.Namespace, *, embeds: bool = True) -> None:
    """Choose rows as the arguments say, and write them.

    Args:
        embeds: rows of the pool that the cache lacks are embedded; else they are refused.

    Raises:
        UserError: what they, the files or the model have wrong.
    """
    output = Output.of(args.out, args.report_dir, args.overwrite)
    options = _options(args)
    if args.preview and args.pool is None:
        raise UserError("`preview` shows rows: give the `pool` that has them")
    if args.endpoint is not None:
        options["answers"] = args.out.with_name(f"{args.out.name}.answers.jsonl")
    request = Request(**options)
    output.check(request)
    keep_compiled()
    with output.reserved(), Bars() as show:
        clock = Clock(show)
        prepared = prepare(request, clock)
        if prepared.file is not None:
            check_columns_fit(output.out, prepared.file)
        output.check_room(prepared.file, prepared.plan.share)
        if not embeds:
            check_embedded(prepared)
        show.close()
        changes = [] if args.config is None else changed_since(args.config, prepared.facts)
        _tell(prepared, args.preview, changes)
        if args.dry_run:
            return
        import_libraries()  # a lack of memory is told before the work
        line = finish(prepared, clock).write_to(output, show, interruption.finishing)
    _say(line, name=output.out)


def embed(args: argparse.Namespace) -> None:
    """Embed a pool, or a part of it, into the cache, and choose nothing.

    Raises:
        UserError: as `work`.
    """
    options = _options(args)
    if args.embeddings is not None or args.cache is False:
        which = "`embeddings` are ready" if args.embeddings is not None else "--no-cache keeps none"
        raise UserError(f"embed fills the cache, but {which}: leave it out")
    keep_compiled()
    with Bars() as show:
        clock = Clock(show)
        options["n_samples"] = 1  # the least that may be chosen: nothing is
        prepared = prepare(Request(**options), clock)
        assert isinstance(prepared, TextPool)
        show.close()
        _tell(prepared, args.preview)
        if args.dry_run:
            return
        line = embed_pool(prepared, clock, args.shard)
    _say(line)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `Request`; rows that a model embeds are kept, unless that is not wanted."""
    fields = [field.name for field in dataclasses.fields(Request)]
    options = {name: value for name, value in vars(args).items() if name in fields}
    if args.embeddings is not None and not args.cache:
        options["cache"] = None  # nothing is embedded
    elif args.cache is None:
        options["cache"] = os.environ.get(CACHE_SWITCH) != "off"
    return options


def _tell(prepared: TextPool | ReadyPool, preview: int, changes: Sequence[str] = ()) -> None:
    """What is to come, what changed since the run of --config, and the first rows."""
    told = [str(prepared.plan), prepared.reading, *prepared.notes, *changes]
    told += [prepared.kept, prepared.calls]
    _say(" ".join(filter(None, told)))
    _preview(prepared, preview)


def _preview(prepared: TextPool | ReadyPool, n: int) -> None:
    """The first rows, those of text as the model sees them, what counts between ⟦ and ⟧."""
    file = prepared.file
    if isinstance(prepared, TextPool):
        for i, row in enumerate(prepared.usable.at[:n].tolist()):
            text = shown(prepared.model, prepared.usable.tokens, i)
            print(f"{prepared.file.where(row)}: {text}", file=sys.stderr)
    elif file is not None:
        for row in prepared.rows[:n].tolist():
            print(f"{file.where(row)}: {file.preview(row)}", file=sys.stderr)


def _say(line: str, name: object = NAME) -> None:
    print(f"{name}: {in_flags(line, flags())}", file=sys.stderr)
