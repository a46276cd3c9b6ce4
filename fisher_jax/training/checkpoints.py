"""Checkpoints of a training run through orbax, refused where they are another run's."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fisher_jax.util.errors import UserError
from fisher_jax.util.files import replacing

_RUN = "run.json"


class Checkpoints:
    """Saves and restores a tree of arrays with the losses so far.

    Raises:
        ValueError: the folder holds checkpoints with another fingerprint.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        import orbax.checkpoint as ocp  # a second to import

        self._ocp = ocp
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        run = folder / _RUN
        if run.exists() and json.loads(run.read_text()) != fingerprint:
            raise UserError(
                f"{folder} holds checkpoints of other rows, options or weights: name another "
                "folder or remove it"
            )
        with replacing(run) as temporary:
            temporary.write_text(json.dumps(fingerprint))
        self._manager = ocp.CheckpointManager(
            folder / "steps", options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )

    def save(
        self,
        step: int,
        tree: Any,
        losses: list[float],
        validation: list[tuple[int, float]],
    ) -> None:
        """Save them as those of a step."""
        history = {"losses": losses, "validation": validation}
        self._manager.save(
            step,
            args=self._ocp.args.Composite(
                arrays=self._ocp.args.StandardSave(_named(tree)),
                history=self._ocp.args.JsonSave(history),
            ),
        )
        self._manager.wait_until_finished()  # the next step takes the arrays' memory

    def restore(self, like: Any) -> tuple[Any, list[float], list[tuple[int, float]]] | None:
        """The newest tree, placed as `like`, with its losses; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _named(like)
        )
        restored = self._manager.restore(
            step,
            args=self._ocp.args.Composite(
                arrays=self._ocp.args.StandardRestore(abstract),
                history=self._ocp.args.JsonRestore(),
            ),
        )
        leaves = [restored.arrays[name] for name in _named(like)]  # pyright: ignore
        history = restored.history  # pyright: ignore
        return (
            jax.tree.unflatten(jax.tree.structure(like), leaves),
            [float(np.float32(x)) for x in history["losses"]],
            [(int(k), float(v)) for k, v in history["validation"]],
        )

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


def _named(tree: Any) -> dict[str, Any]:
    return {f"{k:04d}": leaf for k, leaf in enumerate(jax.tree.leaves(tree))}
