"""What `fisher-select` does with its arguments: the pipeline's work, told on stderr."""

import argparse
import dataclasses
import sys

from fisher_jax.command import interruption
from fisher_jax.command.compiled import keep_compiled
from fisher_jax.command.messages import Bars
from fisher_jax.command.replay import changed_since
from fisher_jax.command.words import NAME
from fisher_jax.data.output import check_columns_fit
from fisher_jax.models import shown
from fisher_jax.pipeline import Clock, Output, Request, finish, prepare
from fisher_jax.pipeline.ready import ReadyPool
from fisher_jax.pipeline.text import TextPool


def work(args: argparse.Namespace) -> None:
    """Choose rows as the arguments say, and write them.

    Raises:
        UserError: what they, the files or the model have wrong.
    """
    output = Output.of(args.out, args.report_dir, args.overwrite)
    fields = [field.name for field in dataclasses.fields(Request)]
    options = {name: value for name, value in vars(args).items() if name in fields}
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
        changes = [] if args.config is None else changed_since(args.config, prepared.facts)
        told = [str(prepared.plan), prepared.reading, *prepared.notes, *changes, prepared.calls]
        _say(" ".join(filter(None, told)))
        _preview(prepared, args.preview)
        if args.dry_run:
            return
        line = finish(prepared, clock).write_to(output, show, interruption.finishing)
    _say(line, name=output.out)


def _preview(prepared: TextPool | ReadyPool, n: int) -> None:
    """The first rows as the model sees them, what counts between ⟦ and ⟧."""
    if isinstance(prepared, TextPool):
        rows = prepared.usable
        for i in range(min(n, len(rows.at))):
            where = prepared.file.where(int(rows.at[i]))
            print(f"{where}: {shown(prepared.model, rows.tokens, i)}", file=sys.stderr)


def _say(line: str, name: object = NAME) -> None:
    print(f"{name}: {line}", file=sys.stderr)
