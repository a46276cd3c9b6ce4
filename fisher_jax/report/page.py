"""What a selection looks like: a ranking, figures, a page and a manifest in one folder."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int
from matplotlib.figure import Figure

from fisher_jax.design import Selection, TokenSource, log_dets, remaining_gains
from fisher_jax.report import figures
from fisher_jax.report.figures import UniformDraws
from fisher_jax.util.excerpt import counted
from fisher_jax.util.progress import OnProgress
from fisher_jax.util.streams import stream

N_DRAWS = 20
FIGURES = ("gain", "log_det_examples", "log_det_tokens", "lengths")
FILES = ("ranking.parquet", "report.html", "manifest.json", *(f"{name}.png" for name in FIGURES))
_PREVIEW_CHARACTERS = 600


@dataclass(frozen=True)
class Comparison:
    """A selection beside uniform draws at equal examples and at equal tokens."""

    examples: UniformDraws
    tokens: UniformDraws

    def headline(self, selection: Selection) -> str:
        """The result in a line."""
        n = len(selection.ranking)
        f, equal, tokens = selection.log_det, self.examples.mean[-1], self.tokens.mean[-1]
        return (
            f"{counted(n, 'example')}, log det {f:.1f} nats; uniform has {equal:.1f} with as many "
            f"examples and {tokens:.1f} with as many tokens"
        )


def compare_with_uniform(
    emb: TokenSource,
    selection: Selection,
    ridge: float | int,
    seed: int,
    *,
    costs: Int[np.ndarray, "N"] | None = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """log det of `N_DRAWS` uniform draws, as long in examples or in tokens as the selection.

    `costs` are the tokens that each row is trained on, by default those that it is selected by.
    """
    rng = stream(seed, "report")
    costs = emb.lengths if costs is None else costs
    n_examples, budget = len(selection.ranking), float(costs[selection.ranking].sum())
    orders = [rng.permutation(len(emb)) for _ in range(N_DRAWS)]
    spent = [np.cumsum(costs[order]) for order in orders]
    n_tokens = [int(np.searchsorted(s, budget)) + 1 for s in spent]  # the last row reaches it
    longest = [order[: max(n_examples, k)] for order, k in zip(orders, n_tokens, strict=True)]
    curves = log_dets(emb, longest, ridge, on_progress=on_progress)
    steps = np.arange(1.0, n_examples + 1)
    by_examples = [(steps, curve[:n_examples]) for curve in curves]
    by_tokens = [
        (s[:k].astype(np.float64), curve[:k])
        for s, curve, k in zip(spent, curves, n_tokens, strict=True)
    ]
    return Comparison(figures.uniform_draws(by_examples), figures.uniform_draws(by_tokens, budget))


def write_ranking(path: Path, rows: np.ndarray, selection: Selection, tokens: np.ndarray) -> None:
    """index (row of the pool), rank, gain (nats) and tokens of every choice."""
    table = pa.table(
        {
            "index": rows[selection.ranking],
            "rank": np.arange(len(selection.ranking)),
            "gain": selection.gains.astype(np.float64),
            "tokens": tokens[selection.ranking],
        }
    )
    pq.write_table(table, path)


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """All that is needed to make the selection again."""
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def write_report(
    folder: Path,
    emb: TokenSource,
    selection: Selection,
    comparison: Comparison,
    *,
    ridge: float | int,
    preview: Callable[[int], str],
    row_of: np.ndarray,
    costs: Int[np.ndarray, "N"],
    facts: str,
    notes: list[str],
    settings: dict[str, Any],
) -> None:
    """report.html, self-contained, and its figures as PNG.

    Args:
        folder: where to; `files.replacing_files` has one whose files come whole or not at all.
        emb: the pool.
        selection: what was chosen of it.
        comparison: `compare_with_uniform` of the two.
        ridge: of the selection, for the gains of what was left out.
        preview: text of an example of `emb`.
        row_of: (N,) row of the pool's file of each example.
        costs: (N,) tokens that each is trained on.
        facts: a line on pool and model.
        notes: what a reader must know, such as rows that were cut or skipped.
        settings: options and versions.
    """
    tokens = costs[selection.ranking]
    drawn = {
        "gain": figures.gain_curve(selection.gains),
        "log_det_examples": figures.log_det_curve(
            np.arange(1.0, len(tokens) + 1), selection.gains, comparison.examples, "examples"
        ),
        "log_det_tokens": figures.log_det_curve(
            np.cumsum(tokens, dtype=np.float64), selection.gains, comparison.tokens, "tokens"
        ),
        "lengths": figures.length_histogram(costs, tokens),
    }
    encoded = []
    for name, figure in drawn.items():
        png = _png(figure)
        (folder / f"{name}.png").write_bytes(png)
        encoded.append({"title": name, "base64": base64.b64encode(png).decode()})

    def rows(examples: np.ndarray, gains: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "order": order,
                "index": int(row_of[i]),
                "tokens": int(costs[i]),
                "gain": float(gain),
                "text": _shorten(preview(int(i))),
            }
            for order, (i, gain) in enumerate(zip(examples, gains, strict=True))
        ]

    left = remaining_gains(emb, selection.ranking, ridge)
    least = np.argsort(left, kind="stable")[: min(10, int(np.isfinite(left).sum()))]
    tables = [
        {
            "title": "First choices",
            "text": "The rows chosen first, and what each added to those before it.",
            "order": "rank",
            "rows": rows(selection.ranking[:10], selection.gains[:10]),
        },
        {
            "title": "Least to add",
            "text": "The rows left out whose gain is smallest at the end: what they would teach "
            "the last layer is in the selection already, or they are short.",
            "order": "",
            "rows": rows(least, left[least]),
        },
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fisher_jax.report", "."), autoescape=True
    )
    page = environment.get_template("report.html.j2").render(
        headline=comparison.headline(selection),
        facts=facts,
        notes=notes,
        figures=encoded,
        tables=tables,
        settings=settings,
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _shorten(text: str) -> str:
    if len(text) <= _PREVIEW_CHARACTERS:
        return text
    return text[:_PREVIEW_CHARACTERS] + f" … ({len(text):,} characters)"
