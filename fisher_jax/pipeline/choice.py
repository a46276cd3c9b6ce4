"""What was chosen, and its way into files."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fisher_jax.data.columns import kinds
from fisher_jax.data.embedding_store import StoredEmbeddings
from fisher_jax.data.output import write_selection
from fisher_jax.data.pool_file import hash_of_folder
from fisher_jax.design import Selection, TokenEmbeddings
from fisher_jax.models import file_sha256
from fisher_jax.pipeline.clock import Clock, OnStep
from fisher_jax.pipeline.output import Hold, Output
from fisher_jax.pipeline.pool import EmbeddedPool
from fisher_jax.pipeline.request import Request
from fisher_jax.report import (
    N_DRAWS,
    Subject,
    compare_with_uniform,
    write_manifest,
    write_ranking,
    write_report,
)
from fisher_jax.util.excerpt import counted
from fisher_jax.util.locks import signals_held
from fisher_jax.util.platforms import here
from fisher_jax.util.provenance import provenance


@dataclass(frozen=True)
class Choice:
    """A selection of a pool's rows.

    Attributes:
        request: what was asked for.
        pool: what was selected from.
        selection: its ranking counts the rows that could be used, see `ranking`.
        weights: (n,) of the rows in a weighted loss; `fisher_random` alone has them.
        certificate: the share of the best f that the selection has at least, with `certify`.
        clock: how long it took, in `seconds`.
        others: by name, what the rules that were compared chose for the same budget.
    """

    request: Request
    pool: EmbeddedPool
    selection: Selection
    weights: Float[np.ndarray, "n"] | None
    certificate: float | None
    clock: Clock
    others: Mapping[str, Selection] = field(default_factory=dict)

    @property
    def ranking(self) -> Int[np.ndarray, "n"]:
        """Rows of the pool in order of choice, as it was given."""
        return self.pool.rows[self.selection.ranking]

    @property
    def gains(self) -> Float[np.ndarray, "n"]:
        """What each choice added, nats."""
        return self.selection.gains

    @property
    def log_det(self) -> float:
        """f(S), nats, beyond the initial rows if there are some."""
        return self.selection.log_det

    @property
    def embeddings(self) -> TokenEmbeddings | StoredEmbeddings:
        """Of the rows that could be used, `pool.rows`; centred, scaled and projected.

        Those of a pool that is larger than memory are read from the cache as they are needed.
        """
        return self.pool.emb

    @property
    def scores(self) -> dict[str, Any]:
        """What the selector was told beside the embeddings, by name."""
        return self.pool.scores

    @property
    def notes(self) -> list[str]:
        """What was left out or cut, and the certificate, in sentences."""
        if self.certificate is None:
            return self.pool.notes
        share = f"at least {100 * self.certificate:.1f}%"
        return [*self.pool.notes, f"This is {share} of the most that the budget can buy."]

    @property
    def facts(self) -> dict[str, Any]:
        """Sources with their hashes, and sizes."""
        chosen = self.selection.ranking
        facts = self.pool.facts | {
            "rows": self.pool.n_rows,
            "tokens": int(self.pool.emb.lengths.sum()),
            "selected_rows": len(chosen),
            "selected_tokens": int(self.pool.costs[chosen].sum()),
            "log_det": self.selection.log_det,
        }
        if self.certificate is not None:
            facts["least_share_of_best"] = self.certificate
        return facts | self._of_columns()

    def _of_columns(self) -> dict[str, Any]:
        """What columns say of the chosen rows: sums, and rows of each group."""
        quality, price, group = self.pool.values.take(self.selection.ranking)
        facts: dict[str, Any] = {}
        if quality is not None:
            facts["selected_quality"] = float(quality.sum())
        if price is not None:
            facts["selected_cost"] = float(price.sum())
        if group is not None:
            names, counts = np.unique(group, return_counts=True)
            facts["selected_of_group"] = dict(zip(names.tolist(), counts.tolist(), strict=True))
        return facts

    def write(
        self,
        out: str | os.PathLike[str],
        report_dir: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        on_progress: OnStep | None = None,
    ) -> str:
        """Write the chosen rows, and a report; gives the result in a line.

        Both are there whole or not at all; the manifest has OUT's hash. Ctrl-C waits for the end of
        the renames.

        Args:
            out: a .jsonl or .parquet file: the rows in order of choice, every column kept, with
                `fisher_rank` and `fisher_gain`.
            report_dir: folder of the report, default `out` + ".report".
            overwrite: replace what is there.
            on_progress: called with a `Step` whenever there is news.

        Raises:
            UserError: an output that exists or can't be written, or would replace what was read.
        """
        output = Output.of(out, report_dir, overwrite)
        output.check(self.request)
        with output.reserved():
            return self.write_to(output, on_progress)

    def write_to(
        self, output: Output, on_progress: OnStep | None = None, hold: Hold = signals_held
    ) -> str:
        """`write` to places that were checked and are reserved; `hold` as `Output.replaced`."""
        request, pool, selection = self.request, self.pool, self.selection
        clock = dataclasses.replace(self.clock, on_step=on_progress)
        with clock.timed("compare"):
            subject = self._subject()
            comparison = compare_with_uniform(
                subject, on_progress=clock.counting("uniform draws", N_DRAWS, "draw")
            )
        facts, versions = self.facts, provenance()
        options = request.as_options() | output.as_options()
        written = clock.counting("writing", 1, "report")
        with output.replaced(hold) as (file, folder):
            write_selection(file, output.out, pool.file, self.ranking, self.gains, self.weights)
            facts["out_sha256"] = file_sha256(file) if file.is_file() else hash_of_folder(str(file))
            with clock.timed("report"):
                write_report(
                    folder,
                    subject,
                    comparison,
                    facts=f"{counted(facts['rows'], 'row')}, "
                    f"{counted(facts['tokens'], 'token embedding')} of width {pool.emb.dim}; "
                    f"{counted(facts['selected_rows'], 'row')} with "
                    f"{counted(facts['selected_tokens'], 'token')} chosen.",
                    notes=self.notes,
                    settings={k: v for k, v in (options | versions).items() if v is not None},
                )
                write_ranking(folder / "ranking.parquet", pool.rows, selection, pool.costs)
            write_manifest(
                folder / "manifest.json",
                {
                    "options": options,
                    "result": facts,
                    "notes": self.notes,
                    "uniform_log_det": {
                        "equal_examples": float(comparison.examples.mean[-1]),
                        "equal_tokens": float(comparison.tokens.mean[-1]),
                    },
                    "compared": {name: self._compared(name) for name in self.others},
                    "versions": versions,
                    "sizes": here()._asdict(),
                    "seconds": clock.seconds | {"total": clock.total()},
                },
            )
            written(1)
        said = [comparison.headline(subject)]
        if pool.values.quality is not None:
            said.append(f"qualities add up to {facts['selected_quality']:.4g}")
        if self.certificate is not None:
            said.append(
                f"at least {100 * self.certificate:.1f}% of the most that the budget can buy"
            )
        return f"{', '.join(said)}; see {output.report_dir / 'report.html'}"

    def _subject(self) -> Subject:
        """What the report shows."""
        request, pool = self.request, self.pool
        return Subject(
            pool.added,
            self.selection,
            request.rule,
            request.ridge,
            request.seed,
            pool.costs,
            pool.rows,
            pool.preview,
            self.others,
            pool.scores,
            pool.task_preview,
            pool.word,
            {} if pool.file is None else kinds(pool.file, pool.rows),
            pool.values.price,
        )

    def _compared(self, name: str) -> dict[str, Any]:
        """Of the manifest: what another rule chose."""
        other = self.others[name]
        return {
            "rows": len(other.ranking),
            "tokens": int(self.pool.costs[other.ranking].sum()),
            "log_det": other.log_det,
            "rows_in_common": int(np.isin(other.ranking, self.selection.ranking).sum()),
        }
