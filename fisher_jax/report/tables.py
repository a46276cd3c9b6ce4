"""The report's tables: the selection beside others, and shares of clusters and columns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fisher_jax.design import Selection
from fisher_jax.report.comparison import N_DRAWS, Comparison
from fisher_jax.report.guidance import cluster_shares
from fisher_jax.report.likeness import CLUSTERS, Map
from fisher_jax.report.subject import Subject
from fisher_jax.util.excerpt import shortened

EXCERPT = 140  # characters of a row that is folded


class Line(NamedTuple):
    """Cells, and a text of whatever script after them."""

    cells: list[str]
    text: str = ""


class ReportTable(NamedTuple):
    """A table whose first column is a name, and all others numbers.

    Attributes:
        head: names of the columns.
        lines: of cells.
        last: name of a column of texts after them; empty without one.
        about: what it shows.
    """

    head: Sequence[str]
    lines: list[Line]
    last: str = ""
    about: str = ""


def compared(subject: Subject, comparison: Comparison) -> ReportTable:
    """The selection, uniform draws and the other rules' choices, a line each."""
    judged = comparison.judged
    head = ["rule", "rows", "tokens", "tokens a row", "log det (nats)", "also chosen here"]
    if judged is not None:
        head.append(judged.measure.name)

    def line(name: str, selection: Selection) -> Line:
        chosen = selection.ranking
        tokens, common = subject.costs[chosen].sum(), np.isin(chosen, subject.selection.ranking)
        cells = [name, f"{len(chosen):,}", f"{tokens:,}", f"{tokens / len(chosen):.1f}"]
        cells += [f"{selection.log_det:.1f}", f"{common.mean():.0%}"]
        if judged is not None:
            cells.append(f"{judged.measure.whole(judged.measure.of(chosen)):.3g}")
        return Line(cells)

    mean = subject.costs.mean()
    n, tokens = len(subject.selection.ranking), subject.tokens.sum()
    share = [f"{part:.0%}" for part in (n / len(subject.emb), tokens / subject.costs.sum())]
    as_many = [f"{n:,}", f"{n * mean:,.0f}"], [f"{tokens / mean:,.0f}", f"{tokens:,}"]
    log_dets = comparison.examples.mean[-1], comparison.tokens.mean[-1]
    uniform = [
        ["uniform, as many " + unit, *sizes, f"{mean:.1f}", f"{f:.1f}", part]
        for unit, sizes, f, part in zip(("rows", "tokens"), as_many, log_dets, share, strict=True)
    ]
    if judged is not None:
        for cells, value in zip(uniform, judged.numbers[1:], strict=True):
            cells.append(f"{value:.3g}")
    lines = [line(f"{subject.rule.name} (this choice)", subject.selection)]
    lines += [Line(cells) for cells in uniform]
    lines += [line(name, selection) for name, selection in subject.others.items()]
    about = f"Uniform rows: means of {N_DRAWS} draws."
    return ReportTable(head, lines, about=about)


def shares(subject: Subject, seen: Map | None) -> list[ReportTable]:
    """Of the columns' values and of the clusters: parts of the pool and of the choice."""
    tables = [_of_column(subject, name, values) for name, values in subject.columns.items()]
    if seen is None:
        return tables
    pool, chosen = cluster_shares(subject, seen)
    lines = [
        Line(
            [CLUSTERS[k], f"{pool[k]:.1%}", f"{chosen[k]:.1%}"],
            shortened(subject.preview(int(i)), EXCERPT) if i >= 0 else "",
        )
        for k, i in enumerate(seen.typical)
    ]
    head = ["cluster", "of the pool", "of the choice"]
    about = "Clusters of the rows' mean embeddings (k-means), the largest first, as on the map."
    return [*tables, ReportTable(head, lines, "the choice nearest to its centre", about)]


def _of_column(subject: Subject, name: str, values: Sequence[str]) -> ReportTable:
    chosen = subject.selection.ranking
    pool, own = Counter(values), Counter(values[i] for i in chosen)
    tokens: Counter[Any] = Counter()
    for i in chosen:
        tokens[values[i]] += int(subject.costs[i])
    total = sum(tokens.values())
    lines = [
        Line(
            [
                value,
                f"{count / len(values):.1%}",
                f"{own[value] / len(chosen):.1%}",
                f"{tokens[value] / total:.1%}",
            ]
        )
        for value, count in pool.most_common()
    ]
    return ReportTable([name, "of the pool", "of the choice", "of its tokens"], lines)
