"""Kills: every program is ended at each of its renames and at random moments, and started again."""

import contextlib
import json
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from faults import inputs
from faults.case import Case, Trial, shuffled
from faults.processes import Disturbance, Ended, ended, renames
from tests.helpers.endpoint_server import Server, shorter

MOMENTS = 50  # random ones, for each of two signals
SIGNALS = (signal.SIGKILL, signal.SIGTERM)

State = dict[str, bytes]


class Target(NamedTuple):
    """A program that is killed.

    Attributes:
        kind: its name.
        prepare: puts its inputs and an earlier state into a folder.
        argv: of `python`.
        state: what of the folder must be the same at the end.
        kept: whether a state after a kill holds all that the one before had.
        paid: what was asked of an endpoint, each time.
    """

    kind: str
    prepare: Callable[[Path], None]
    argv: Callable[[Path], list[object]]
    state: Callable[[Path], State]
    kept: Callable[[State, "Undisturbed"], bool]
    paid: Callable[[], list[str]] = list


class Undisturbed(NamedTuple):
    """A run to the end: what was there before, what it made, and how."""

    before: State
    after: State
    renames: int
    seconds: float


def cases(seed: int) -> Iterator[Case]:
    """Every target in turn, each at its renames and moments in a random order."""
    with tempfile.TemporaryDirectory(prefix="faults") as name, endpoint() as server:
        work = Path(name)
        yield from in_turn([of_target(t, work, seed) for t in targets(work, server)])


def in_turn(streams: list[Iterator[Case]]) -> Iterator[Case]:
    """The first of each, then the second of each, ..."""
    while streams:
        for stream in [*streams]:  # one at a time: a target's first case waits for its whole run
            case = next(stream, None)
            if case is None:
                streams.remove(stream)
            else:
                yield case


def of_target(target: Target, work: Path, seed: int) -> Iterator[Case]:
    """A target's cases."""
    folder, rng = work / target.kind.replace(" ", "_"), shuffled(seed, target.kind)
    whole = undisturbed(target, folder, work / "cache")
    plans = [(number, k, 0.0) for k in range(1, whole.renames + 1) for number in SIGNALS]
    plans += [(number, 0, rng.uniform(0.02, 1)) for _ in range(MOMENTS) for number in SIGNALS]
    rng.shuffle(plans)
    for k, (number, rename, share) in enumerate(plans):

        def run(trial: Trial, number=number, rename=rename, share=share) -> None:
            disturbance = Disturbance(number, rename, share * whole.seconds)
            kill(trial, target, folder, work / "cache", disturbance, whole)

        when = f"rename {rename}" if rename else f"{share:.3f} of its time"
        yield Case(target.kind, f"{target.kind} {k}: {number.name} at {when}", run)


@cache
def undisturbed(target: Target, folder: Path, compiled: Path) -> Undisturbed:
    """A target's whole run, once for each.

    Raises:
        RuntimeError: it failed.
    """
    target.prepare(fresh(folder))
    before = target.state(folder)
    done = ended(target.argv(folder), compiled, folder)
    if done.code != 0:
        raise RuntimeError(f"{target.kind} failed undisturbed: {done.messages[-2000:]}")
    count = len(renames(folder).read_text().splitlines())
    target.prepare(fresh(folder))  # timed with what it has compiled by now
    done = ended(target.argv(folder), compiled, folder)
    return Undisturbed(before, target.state(folder), count, done.seconds)


def kill(
    trial: Trial,
    target: Target,
    folder: Path,
    compiled: Path,
    disturbance: Disturbance,
    whole: Undisturbed,
) -> None:
    """One kill, and one start after it."""
    while True:
        target.prepare(fresh(folder))
        asked = len(target.paid())
        killed = ended(target.argv(folder), compiled, folder, disturbance)
        if not killed.missed:
            break
        disturbance = disturbance._replace(seconds=0.8 * disturbance.seconds)  # faster than before
    trial.check(ended_by(killed, disturbance), f"{disturbance}: {killed.code} {killed.messages}")
    left = target.state(folder)
    trial.check(target.kept(left, whole), f"{disturbance}: lost or torn: {sorted(left)}")
    if disturbance.number == signal.SIGTERM and "command" in target.kind:
        is_one = left in (whole.before, whole.after)
        trial.check(is_one, f"{disturbance}: a mixture of an earlier and a new output")
    goes_on(trial, target, folder, compiled, whole, str(disturbance))
    questions = target.paid()[asked:]
    trial.check(
        len(questions) - len(set(questions)) <= 1,  # one may be on its way
        f"{disturbance}: {len(questions)} answers to {len(set(questions))} questions were paid",
    )


def goes_on(
    trial: Trial, target: Target, folder: Path, compiled: Path, whole: Undisturbed, after: str
) -> None:
    """The next start ends well, with the bytes of an undisturbed run; nothing hidden is left."""
    again = ended(target.argv(folder), compiled, folder)
    trial.check(again.code == 0, f"{after}: the next start failed: {again.messages[-1000:]}")
    differing = differences(target.state(folder), whole.after)
    trial.check(not differing, f"{after}: other bytes after the next start: {differing}")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    leftovers = [name for name in names if "tmp" in name or "earlier" in name]
    trial.check(not leftovers, f"{after}: left behind: {leftovers}")


def ended_by(killed: Ended, disturbance: Disturbance) -> bool:
    """By the signal, or by itself before it; never with a traceback."""
    codes = {0, -disturbance.number} | ({130} if disturbance.number == signal.SIGTERM else set())
    return killed.code in codes and "Traceback" not in killed.messages


def differences(one: State, other: State) -> list[str]:
    """Names whose contents differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def targets(work: Path, server: Server) -> list[Target]:
    """All programs that are killed."""
    model = inputs.model(work)
    judged = inputs.play_model(work)

    def asked() -> list[str]:
        return [body["messages"][0]["content"] for _, body in server.calls]

    return [
        Target(
            "command, ready embeddings",
            lambda folder: inputs.earlier_output(inputs.ready(folder)),
            lambda folder: [*inputs.COMMAND, *inputs.of_ready(folder)],
            command_state,
            each_old_or_new,
        ),
        Target("experiment", lambda folder: None, inputs.experiment, results_state, grows),
        Target("fine-tuning", lambda folder: None, inputs.training, weights_state, each_old_or_new),
        Target(
            "judging, an endpoint",
            lambda folder: inputs.written(folder, judged),
            lambda folder: inputs.judging(folder, server.url),
            judged_state,
            each_old_or_new,
            asked,
        ),
        Target(
            "command, a model",
            lambda folder: inputs.earlier_output(inputs.texts(folder)),
            lambda folder: [*inputs.COMMAND, *inputs.of_texts(folder, model)],
            command_state,
            each_old_or_new,
        ),
        Target(
            "a cache of embeddings",
            lambda folder: inputs.texts(folder) and None,
            lambda folder: inputs.embedding(folder, model),
            cache_state,
            only_whole,
        ),
        Target(
            "command, a saved set",
            lambda folder: inputs.earlier_set(inputs.ready(folder)),
            lambda folder: [*inputs.COMMAND, *inputs.of_ready(folder, "out")],
            lambda folder: command_state(folder, "out"),
            each_old_or_new,
        ),
        Target("an export", inputs.earlier_model, inputs.export, exported_state, old_or_new),
        Target(
            "a language experiment",
            lambda folder: None,
            lambda folder: inputs.language(folder, judged),
            results_state,
            grows,
        ),
    ]


def cache_state(folder: Path) -> State:
    """Its shards."""
    return {path.name: path.read_bytes() for path in (folder / "states").rglob("*.safetensors")}


def only_whole(left: State, whole: Undisturbed) -> bool:
    """What is there is whole: some of the shards of a run that nobody disturbed."""
    return left.items() <= whole.after.items()


def old_or_new(left: State, whole: Undisturbed) -> bool:
    """All files are of one model, the earlier or the new one."""
    return left in (whole.before, whole.after)


def exported_state(folder: Path) -> State:
    """The model's files."""
    return {path.name: path.read_bytes() for path in (folder / "exported").glob("*")}


def command_state(folder: Path, out: str = inputs.OUT) -> State:
    """OUT, a file or a folder, and its report; a manifest without its seconds."""
    files = [folder / out, *folder.glob(f"{out}/*"), *folder.glob(f"{out}.report/*")]
    found = {path.name: path.read_bytes() for path in files if path.is_file()}
    if found.get("manifest.json", b"").startswith(b"{"):
        manifest = json.loads(found["manifest.json"])
        manifest.pop("seconds", None)
        found["manifest.json"] = json.dumps(manifest).encode()
    return found


def results_state(folder: Path) -> State:
    """Rows and options."""
    names = ("results.jsonl", "config.yaml")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def weights_state(folder: Path) -> State:
    """The trained weights."""
    path = folder / "weights.sha256"
    return {path.name: path.read_bytes()} if path.exists() else {}


def judged_state(folder: Path) -> State:
    """Verdicts."""
    path = folder / "judged.json"
    return {path.name: path.read_bytes()} if path.exists() else {}


def each_old_or_new(left: State, whole: Undisturbed) -> bool:
    """No file is lost or torn."""
    before, after = whole.before, whole.after
    names = {*left, *before}
    if "judged.json" in after:  # grows by a comparison at a time
        return all(entry in _entries(after) for entry in _entries(left))
    return all(left.get(n) in (before.get(n), after.get(n)) for n in names)


def _entries(state: State) -> list[object]:
    return json.loads(state.get("judged.json", b"[]"))


def grows(left: State, whole: Undisturbed) -> bool:
    """Rows so far are the first of all rows."""
    return whole.after["results.jsonl"].startswith(left.get("results.jsonl", b""))


@contextlib.contextmanager
def endpoint() -> Iterator[Server]:
    """A server on this machine that answers as judges do."""
    server = Server(shorter)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
