"""The chosen rows one by one: their numbers, their text, and why each was chosen."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.design import token_gains
from fisher_jax.report.comparison import Comparison
from fisher_jax.report.likeness import Nearest
from fisher_jax.report.measures import in_memory
from fisher_jax.report.subject import Subject
from fisher_jax.report.tables import EXCERPT
from fisher_jax.selectors import task_similarity
from fisher_jax.util.excerpt import shortened

MOST_ROWS = 20_000  # on a page
_TOP = 5  # tokens of a row that are named
_CHARACTERS, _OF_A_ROW = 8_000_000, (200, 4000)  # of all texts, and least and most of one


class Row(NamedTuple):
    """A row of the list.

    Attributes:
        cells: its numbers.
        excerpt: the beginning of its text, in one line.
        text: all of it, empty where the excerpt is that.
        why: sentences.
    """

    cells: list[str]
    excerpt: str
    text: str
    why: list[str]


def column_names(comparison: Comparison) -> list[str]:
    """Of the cells."""
    judged = comparison.judged
    own = [judged.measure.column] if judged is not None and judged.measure.column else []
    return ["rank", "row", "tokens", "gain (nats)", *own, "likeness"]


def chosen_rows(subject: Subject, comparison: Comparison, nearest: Nearest) -> list[Row]:
    """The choices in order, at most `MOST_ROWS`."""
    chosen = subject.selection.ranking[:MOST_ROWS]
    gains, why = subject.selection.gains, _why(subject, nearest, chosen)
    return [
        _row(
            subject,
            comparison,
            int(i),
            f"{rank:,}",
            float(gains[rank]),
            "" if rank == 0 else f"{nearest.cosine[rank]:.2f}",
            why[rank],
            len(chosen),
        )
        for rank, i in enumerate(chosen)
    ]


def least_rows(subject: Subject, comparison: Comparison, left: Float[np.ndarray, "N"]) -> list[Row]:
    """The ten rows that were left out whose gain, of `left`, is smallest."""
    least = np.argsort(left, kind="stable")[: min(10, int(np.isfinite(left).sum()))]
    return [_row(subject, comparison, int(i), "", float(left[i]), "", [], 10) for i in least]


def _row(
    subject: Subject,
    comparison: Comparison,
    i: int,
    rank: str,
    gain: float,
    likeness: str,
    why: list[str],
    n_rows: int,
) -> Row:
    judged, text = comparison.judged, subject.preview(i)
    values = None if judged is None else judged.measure.values
    own = [] if values is None else [f"{values[i]:#.3g}"]
    cells = [rank, f"{subject.row_of[i]:,}", f"{subject.costs[i]:,}", f"{gain:.3f}"]
    excerpt = shortened(text, EXCERPT)
    least, most = _OF_A_ROW
    limit = min(most, max(least, _CHARACTERS // n_rows))
    whole = text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"
    return Row([*cells, *own, likeness], excerpt, "" if excerpt == text else whole, why)


def _why(subject: Subject, nearest: Nearest, chosen: Int[np.ndarray, "n"]) -> list[list[str]]:
    """Sentences on each choice."""
    why: list[list[str]] = [[] for _ in chosen]
    for lines in (_nearest_of_task(subject, chosen), _tokens(subject, chosen)):
        for own, line in zip(why, lines, strict=False):
            own.append(line)
    for rank in range(1, len(chosen)):
        earlier = nearest.rank[rank]
        text = shortened(subject.preview(int(chosen[earlier])), EXCERPT)
        cosine = nearest.cosine[rank]
        why[rank].append(f"Most like rank {earlier:,} before it (likeness {cosine:.2f}): {text}")
    return why


def _nearest_of_task(subject: Subject, chosen: Int[np.ndarray, "n"]) -> Iterator[str]:
    if subject.aim != "task":
        return
    similarity = task_similarity(in_memory(subject), subject.scores["targets"])[:, chosen]
    for q, cosine in zip(np.argmax(similarity, axis=0), similarity.max(axis=0), strict=True):
        text = "" if subject.task_preview is None else subject.task_preview(int(q))
        yield f"Nearest row of the task, {q:,} (cosine {cosine:.2f}): {shortened(text, EXCERPT)}"


def _tokens(subject: Subject, chosen: Int[np.ndarray, "n"]) -> Iterator[str]:
    """The tokens to predict whose embeddings add most information, at the turn of their row."""
    if subject.word is None or subject.aim != "information":
        return
    gains = token_gains(subject.emb, chosen, subject.ridge)
    lengths = subject.emb.lengths[chosen]
    for i, own in zip(chosen, np.split(gains, np.cumsum(lengths)[:-1]), strict=True):
        yield f"Tokens that add most: {', '.join(_top(subject, int(i), own))} nats."


def _top(subject: Subject, i: int, gains: Float[np.ndarray, "M"]) -> Iterable[str]:
    assert subject.word is not None
    for j in np.argsort(-gains, kind="stable")[:_TOP]:
        yield f"“{subject.word(i, int(j))}” {gains[j]:.2f}"
