"""Write a pool of Shakespeare's sentences as JSONL: `python -m scripts.shakespeare OUT`."""

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.corpora.corpora import shakespeare
from fisher_jax.util.files import replacing


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out", type=Path)
    p.add_argument("--n", type=int, default=2000, help="sentences drawn (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    rows = shakespeare()
    if not 1 <= args.n <= len(rows):
        p.error(f"--n must be from 1 to {len(rows)}, got {args.n}")
    chosen = np.random.default_rng(args.seed).permutation(len(rows))[: args.n]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for i in chosen:
            file.write(json.dumps(rows[i], ensure_ascii=False) + "\n")
    print(f"{args.out}: {len(chosen):,} of {len(rows):,} sentences")


if __name__ == "__main__":
    main()
