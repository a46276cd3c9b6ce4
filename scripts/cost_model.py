"""What selections from a million rows and more take, by a model fitted to runs on one GPU.

`python -m scripts.cost_model` prints the table of docs/scaling.md. Seconds of n choices from T
tokens on d devices: `n (a + c T / d) + b T / d + n s`, a, b, c of the committed runs of one card
and s of a choice's two messages between devices, 0 for one. A model: nothing of this size was run,
and of several devices nothing was timed.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

RUNS = Path(__file__).parents[1] / "benchmarks/accelerator/nvidia_h200.json"
DIM, ROW, LONGEST = 576, 21, 64  # width, a row's tokens on average and at most, as in the runs
MESSAGES, MESSAGE_S = 2, 20e-6  # a choice; the time of one, assumed, within one machine
ROOM = 3 / 4  # of a device's memory, as `fisher_jax.util.platforms` has it


class Model(NamedTuple):
    """Seconds of a choice, of a token, and of both together; bytes that a device has for arrays."""

    choice: float
    token: float
    token_choice: float
    memory: float


class Forecast(NamedTuple):
    """Of one selection; bytes a device and a choice."""

    rows: int
    choices: int
    devices: int
    bytes_a_device: float
    bytes_a_choice: int
    seconds: float


def fitted(runs: dict) -> Model:
    """From the runs of one card; errors count relative to the times."""
    parts = runs["selection"]["parts"]
    own = [p for name, p in parts.items() if name.startswith("n") and f"_d{DIM}" in name]
    n, tokens, seconds = (
        np.asarray(column, float)
        for column in zip(*((p["choices"], p["shape"][1], p["warm_s"]) for p in own), strict=True)
    )
    terms = np.stack([n, tokens, n * tokens], axis=1)
    scale = terms.max(axis=0)
    values, _ = nnls(terms / scale / seconds[:, None], np.ones(len(own)))
    memory = runs["imports"]["parts"]["devices"]["memory_bytes"]
    choice, token, token_choice = (values / scale).tolist()
    return Model(choice, token, token_choice, memory)


def estimate(model: Model, rows: int, choices: int) -> Forecast:
    """On the least power of two of devices that hold the pool in float32."""
    tokens, devices = rows * ROW, 1
    n_bytes = 4.0 * tokens * DIM
    while n_bytes / devices > ROOM * model.memory:
        devices *= 2
    seconds = choices * (model.choice + model.token_choice * tokens / devices)
    seconds += model.token * tokens / devices + (devices > 1) * choices * MESSAGES * MESSAGE_S
    sent = 4 * LONGEST * DIM * (devices > 1)
    return Forecast(rows, choices, devices, n_bytes / devices, sent, seconds)


def table(model: Model) -> str:
    """In Markdown."""
    lines = ["| rows | choices | devices | memory of each | sent a choice | hours |"]
    lines.append("|---|---|---|---|---|---|")
    for rows in (1_000_000, 10_000_000):
        for share in (0.01, 0.1):
            e = estimate(model, rows, int(share * rows))
            sent = f"{e.bytes_a_choice / 1e3:.0f} kB" if e.bytes_a_choice else "nothing"
            hours = f"{e.seconds / 3600:.2g}"
            memory = f"{e.bytes_a_device / 1e9:.0f} GB"
            lines.append(
                f"| {e.rows:,} | {e.choices:,} | {e.devices} | {memory} | {sent} | {hours} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    found = fitted(json.loads(RUNS.read_text()))
    print(f"{found}\n\n{table(found)}", end="")
