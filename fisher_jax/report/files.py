"""The files of a report beside its page: the ranking and the manifest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fisher_jax.design import Selection

# a report has those that fit its rule
FIGURES = ("judged", "gain", "log_det_examples", "log_det_tokens", "lengths", "map")
FILES = ("ranking.parquet", "report.html", "manifest.json", *(f"{name}.png" for name in FIGURES))


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
