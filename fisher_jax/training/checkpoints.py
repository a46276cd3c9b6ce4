"""Checkpoints of a training run through orbax: checked when read, refused if another run's."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from filelock import FileLock, Timeout

from fisher_jax.util.errors import UserError
from fisher_jax.util.files import check_room, remove_leftovers_in, replacing

_RUN = "run.json"
_STEPS = "steps"
_OVERHEAD = 2**20  # bytes of a step's descriptions
_REMEDY = "name another folder or remove it"


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tree: of arrays.
        losses: of all steps so far.
        validation: (step, validation loss) pairs.
    """

    tree: Any
    losses: list[float]
    validation: list[tuple[int, float]]


class Checkpoints:
    """Saves and restores a tree of arrays with the losses so far.

    `run.json` names the run, and has a SHA-256 of each step's files.

    Raises:
        ValueError: the folder holds checkpoints with another fingerprint, or ones of which nobody
            knows whose they are.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        import orbax.checkpoint as ocp  # a second to import

        self._ocp = ocp
        self._folder, self._fingerprint = folder.absolute(), fingerprint
        self._digests = _digests(self._folder, fingerprint)
        self._unusable: list[int] = []  # steps after the one that is restored
        self._write_run()
        self._manager = ocp.CheckpointManager(
            self._steps, options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path | None, fingerprint: str) -> Iterator["Checkpoints | None"]:
        """A folder's, for one run at a time; None without a folder.

        Raises:
            UserError: another run has it open; or as above.
        """
        if folder is None:
            yield None
            return
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "run.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{folder} is in use by another run: wait for it to end, or name another folder"
            ) from None
        try:
            remove_leftovers_in(folder)
            kept = cls(folder, fingerprint)
            yield kept
            kept.close()
        finally:
            lock.release()

    def save(
        self,
        step: int,
        tree: Any,
        losses: list[float],
        validation: list[tuple[int, float]],
    ) -> None:
        """Save them as those of a step.

        Raises:
            UserError: the disk has no room.
        """
        for later in self._unusable:  # orbax takes no step before its newest
            self._manager.delete(later)
        self._unusable = []
        self.check_room(tree)
        history = {"losses": losses, "validation": validation}
        try:
            self._manager.save(
                step,
                args=self._ocp.args.Composite(
                    arrays=self._ocp.args.StandardSave(_named(tree)),
                    history=self._ocp.args.JsonSave(history),
                ),
            )
            self._manager.wait_until_finished()  # the next step takes the arrays' memory
        except ValueError as error:  # tensorstore's for a full disk
            if "No space left" not in str(error):
                raise
            raise UserError(
                f"no space left for the checkpoint of step {step} in {self._folder}: make room, "
                "and run again to go on from the one before"
            ) from None
        self._digests[step] = _digest(self._steps / str(step))
        kept = self._manager.all_steps()
        self._digests = {k: digest for k, digest in self._digests.items() if k in kept}
        self._write_run()

    def restore(self, like: Any) -> Restored | None:
        """The newest step that is as it was saved; None where there is none.

        Args:
            like: a tree of arrays, as which the restored ones are placed.

        Warns:
            UserWarning: a damaged or lost step, in whose place an earlier one is taken.
        """
        found = None
        for step in sorted(self._digests, reverse=True):
            if _digest(self._steps / str(step)) == self._digests[step]:
                found = step
                break
            warnings.warn(
                f"{self._steps / str(step)} is damaged or lost: training goes on from the "
                "checkpoint before it, or from the start",
                stacklevel=2,
            )
        self._unusable = [k for k in self._manager.all_steps() if found is None or k > found]
        return None if found is None else self._read(found, like)

    def check_room(self, tree: Any) -> None:
        """Refuse to save it where it won't fit; orbax's threads would print tracebacks.

        Raises:
            UserError: the disk has no room.
        """
        needed = _OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        remedy = "make room, and run again to go on from the last one"
        check_room(self._folder, needed, f"the next step's files in {self._folder}", remedy)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()

    @property
    def _steps(self) -> Path:
        return self._folder / _STEPS

    def _write_run(self) -> None:
        with replacing(self._folder / _RUN) as temporary:
            facts = {"run": self._fingerprint, "steps": self._digests}
            temporary.write_text(json.dumps(facts, indent=1) + "\n")

    def _read(self, step: int, like: Any) -> Restored:
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
        return Restored(
            jax.tree.unflatten(jax.tree.structure(like), leaves),
            [float(np.float32(x)) for x in history["losses"]],
            [(int(k), float(v)) for k, v in history["validation"]],
        )


def _digests(folder: Path, fingerprint: str) -> dict[int, str]:
    """Of the steps that a run has saved in a folder."""
    run = folder / _RUN
    if not run.exists():
        if (folder / _STEPS).exists():
            raise UserError(
                f"{folder} holds checkpoints but no {_RUN}, so nobody knows whose they are: "
                f"{_REMEDY}"
            )
        return {}
    try:
        facts = json.loads(run.read_bytes())
        whose, digests = facts["run"], {int(k): str(v) for k, v in facts["steps"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{run} is damaged, so nobody knows whose checkpoints {folder} holds: {_REMEDY}"
        ) from None
    if whose != fingerprint:
        raise UserError(f"{folder} holds checkpoints of other rows, options or weights: {_REMEDY}")
    return digests


def _digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


def _named(tree: Any) -> dict[str, Any]:
    return {f"{k:04d}": leaf for k, leaf in enumerate(jax.tree.leaves(tree))}
