"""The page of a selection and its figures, which fit the rule that chose."""

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from fisher_jax.design import remaining_gains
from fisher_jax.report import figures, listing, tables
from fisher_jax.report.comparison import Comparison
from fisher_jax.report.figures import Curve
from fisher_jax.report.guidance import flat_from, gains_by_criterion, guidance
from fisher_jax.report.likeness import Map, map_of, nearest_earlier, row_means
from fisher_jax.report.subject import Subject

SCRIPT = Path(__file__).with_name("rows.js")


def write_report(
    folder: Path,
    subject: Subject,
    comparison: Comparison,
    *,
    facts: str,
    notes: Sequence[str],
    settings: dict[str, Any],
) -> None:
    """report.html, self-contained, and its figures as PNG.

    Args:
        folder: where to; `files.replacing_files` has one whose files come whole or not at all.
        subject: the selection.
        comparison: `compare_with_uniform` of it.
        facts: a line on pool and model.
        notes: what a reader must know, such as rows that were cut or skipped.
        settings: options and versions.
    """
    means = row_means(subject.emb)
    nearest = nearest_earlier(means, subject.selection.ranking[: listing.MOST_ROWS])
    seen = map_of(subject, means) if len(means) > 1 else None
    encoded = []
    with rc_context(figures.STYLE):
        for name, figure in _drawn(subject, comparison, seen):
            png = _png(figure)
            (folder / f"{name}.png").write_bytes(png)
            encoded.append(
                {
                    "title": figure.axes[0].get_title("left"),
                    "wide": figure.get_figwidth() > 6,
                    "base64": base64.b64encode(png).decode(),
                }
            )
    least = []
    if subject.aim == "information":
        left = remaining_gains(subject.short, subject.selection.ranking, subject.ridge)
        least = listing.least_rows(subject, comparison, left)
    script = SCRIPT.read_text(encoding="utf-8")
    names = listing.column_names(comparison)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fisher_jax.report", "."), autoescape=True
    )
    page = environment.get_template("page.html.j2").render(
        policy=_policy(script),
        script=script,  # the only text that is not escaped
        headline=comparison.headline(subject),
        facts=facts,
        notes=notes,
        guidance=guidance(subject, nearest, seen),
        figures=encoded,
        others=subject.others,
        compared=tables.compared(subject, comparison),
        shares=tables.shares(subject, seen),
        about_rows=_about_rows(subject),
        columns_of_rows=names,
        rows=listing.chosen_rows(subject, comparison, nearest),
        least=least,
        settings=settings,
    )
    (folder / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")


def _drawn(
    subject: Subject, comparison: Comparison, seen: Map | None
) -> Iterator[tuple[str, Figure]]:
    """Figures by name, what the rule is judged by first."""
    everyone = {"selected": subject.selection, **subject.others}
    if (judged := comparison.judged) is not None:
        measure = judged.measure
        of = {name: measure.of(selection.ranking) for name, selection in everyone.items()}
        if measure.values is None:
            yield "judged", figures.distances(judged.tokens, of, measure.label)
        else:
            title = measure.name.removeprefix("mean ")
            title = f"{title[0].upper()}{title[1:]}"
            yield "judged", figures.histogram(measure.values, of, measure.label, title)
    informed = subject.rule.aim == "information"
    by_tokens = {
        name: Curve(np.cumsum(subject.costs[s.ranking], dtype=np.float64), s.gains)
        for name, s in everyone.items()
    }
    by_examples = {
        name: Curve(np.arange(1.0, len(s.ranking) + 1), s.gains) for name, s in everyone.items()
    }
    if informed:
        yield (
            "log_det_examples",
            figures.log_det_curve(by_examples, comparison.examples, "examples"),
        )
    if informed or subject.others:
        yield "log_det_tokens", figures.log_det_curve(by_tokens, comparison.tokens, "tokens")
    if informed:
        flat = None
        if subject.rule.criterion is not None:
            flat = flat_from(gains_by_criterion(subject))
        yield "gain", figures.gain_curve(subject.selection.gains, flat)
    lengths = {name: subject.costs[s.ranking] for name, s in everyone.items()}
    yield "lengths", figures.histogram(subject.costs, lengths, "tokens of a row", "Lengths")
    if seen is not None:
        rankings = {name: s.ranking for name, s in everyone.items()}
        yield "map", figures.pool_map(seen, rankings)


def _about_rows(subject: Subject) -> str:
    n = len(subject.selection.ranking)
    cut = ""
    if n > listing.MOST_ROWS:
        cut = (
            f" The page has the first {listing.MOST_ROWS:,} of {n:,}; ranking.parquet and the "
            "output have all."
        )
    return (
        "A click on a row shows all of its text, and why it was chosen. Gains are what a row adds "
        "to those before it; likeness is the largest cosine, between rows' mean embeddings less "
        f"the pool's, to one of those. Rows are counted from 0.{cut}"
    )


def _policy(script: str) -> str:
    """Nothing is loaded, and nothing runs but this script, by its hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
