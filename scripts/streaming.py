"""A selection from embeddings that are larger than memory may be: time, and memory at its peak.

`python -m scripts.streaming FOLDER --gb 10` fills a store with random embeddings (D = 576, 21
tokens a row, float16), chooses rows of all of it, then of a part, in memory and not, and prints
what `benchmarks/streaming.json` keeps.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import fisher_jax as fj
from fisher_jax.data.embedding_store import EmbeddingStore, StoredEmbeddings
from fisher_jax.design import Budget
from fisher_jax.design.device_pool import first_room, make_pool
from fisher_jax.design.greedy import advance, first_root, start
from fisher_jax.design.precision import in_precision
from fisher_jax.design.streaming import Stream
from fisher_jax.util.provenance import provenance
from scripts.measuring import synthetic_pool

ROWS = 10_000  # of a shard
BESIDE = 40_000  # rows of the part that is selected from in memory as well


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("folder", type=Path)
    p.add_argument("--gb", type=float, default=10, help="of embeddings on disk")
    p.add_argument("--choices", type=int, default=500)
    args = p.parse_args()
    store = EmbeddingStore(args.folder, "float16")
    keys = filled(store, args.folder, args.gb)
    pool, opening = measured(lambda: store.view(keys).standardized())
    results: dict[str, Any] = {"opening": opening, "all": streamed(pool, args.choices)[0]}
    part = store.view(keys[:BESIDE]).standardized()
    results["part_streamed"], ranking = streamed(part, args.choices)
    results["part_in_memory"], same = in_memory(part.in_memory(), args.choices)
    results["same_ranking"] = bool(np.array_equal(ranking, same))
    each = [results[f"part_{how}"]["ms_per_evaluated_row"] for how in ("streamed", "in_memory")]
    results["times_in_memory"] = round(each[0] / each[1], 2)
    print(json.dumps(results | {"versions": provenance()}, indent=1))


def filled(store: EmbeddingStore, folder: Path, gb: float) -> list[bytes]:
    """Shards of random rows until there are so many bytes; the keys of all."""
    keys: list[bytes] = []
    with tqdm(total=round(gb * 1e9), unit="B", unit_scale=True, desc="writing") as bar:
        while bar.n < gb * 1e9:
            shard = len(keys) // ROWS
            own = [f"{shard:06d} {i:06d}".encode().ljust(32) for i in range(ROWS)]
            if len(store.missing(own)):
                store.add(own, synthetic_pool(ROWS, seed=shard))
            bar.update(store.view(own).lengths.sum() * 576 * 2)
            keys += own
    return keys


def streamed(pool: StoredEmbeddings, n: int) -> tuple[dict[str, Any], Sequence[int]]:
    """n rows of a pool on disk, as `fj.select` chooses them."""
    budget = Budget.of(pool, n_samples=n)

    def work() -> Stream:
        with in_precision(pool, 1.0, budget) as dtype:
            stream = Stream(pool, budget, np.ones(len(pool)), None, 1.0, dtype)
            stream.start()
            with tqdm(total=n, desc="selecting") as bar:
                while (i := stream.choose()) is not None:
                    stream.take(i)
                    bar.update()
            return stream

    stream, facts = measured(work)
    return facts | _per_row(facts, len(pool), stream.evaluated), stream.ranking


def in_memory(emb: fj.TokenEmbeddings, n: int) -> tuple[dict[str, Any], Sequence[int]]:
    """The same of a pool in memory."""
    budget = Budget.of(emb, n_samples=n)

    def work() -> tuple[Any, Any]:
        with in_precision(emb, 1.0, budget):
            device_pool, shapes = make_pool(emb, budget)
            root = first_root(emb.dim, 1.0, emb.dtype)
            state = start(device_pool, root, first_room(budget), shapes)
            state = advance(device_pool, state, n, shapes, "lazy")
            return int(state.evaluated.sum()), np.asarray(state.ranking[:n])

    work()  # compiles; the streamed one's few programs are in its time
    (evaluated, ranking), facts = measured(work)
    return facts | _per_row(facts, len(emb), evaluated), ranking


def _per_row(facts: dict[str, Any], n: int, evaluated: int) -> dict[str, Any]:
    each = round(1000 * facts["seconds"] / evaluated, 4)
    return {"rows": n, "evaluated": evaluated, "ms_per_evaluated_row": each}


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What it returns; its seconds and the most memory without pages of files, in GB."""
    is_over, most = threading.Event(), [0]

    def watch() -> None:
        while not is_over.wait(0.05):
            status = Path("/proc/self/status").read_text()
            most.append(int(status.split("RssAnon:")[1].split()[0]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    is_over.set()
    watcher.join()
    return result, {"seconds": round(seconds, 1), "peak_gb": round(max(most) * 1024 / 1e9, 2)}


if __name__ == "__main__":
    main()
