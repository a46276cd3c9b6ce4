"""Results of an experiment on disk: rows of finished settings that survive a kill."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.run import live
from experiments.run.kept import Row, read_facts, read_options, read_rows
from fisher_jax.util.errors import UserError
from fisher_jax.util.files import remove_leftovers_in, replacing
from fisher_jax.util.platforms import here
from fisher_jax.util.provenance import provenance

RESULTS = "results.jsonl"
RESOLVED = "config.yaml"
PROVENANCE = "provenance.json"
GROWING = ("selectors", "equal", "budgets", "uniform_budgets", "replicates")  # add rows only
RUNTIME_KEYS = ("wandb", "overwrite", "stages", "start", "hours")  # options that change no result


class Results:
    """Rows of finished work in a folder's results.jsonl; a killed run goes on after them.

    One run at a time: what another one has added meanwhile is an error, and kept.

    Args:
        folder: is made if need be.
        options: all of the run.
        overwrite: start anew where the folder holds results of other options.
        key: of a row, the piece of work that it belongs to; by default its setting.
        growing: options (lists and numbers) that may differ from an earlier run's, since they only
            add work; both runs' are kept.

    Raises:
        ValueError: the folder holds results of other options, or damaged ones, and `overwrite` is
            not set.
    """

    def __init__(
        self,
        folder: Path,
        options: dict[str, Any],
        overwrite: bool,
        key: Callable[[Row], Any] = lambda row: row["setting"],
        growing: Sequence[str] = (),
        later: dict[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self._key = key
        folder.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in options.items() if k not in RUNTIME_KEYS}
        path = folder / RESOLVED
        has_rows = (folder / RESULTS).exists()  # not so where an earlier run failed at once
        before = read_options(path) if path.exists() and has_rows and not overwrite else {}
        given, known = (
            {k: v for k, v in some.items() if k not in (*growing, *RUNTIME_KEYS) and v is not None}
            for some in (kept, (later or {}) | before if before else {})
        )  # an option that came later and is None is what the earlier run did
        same = given == known and all(
            type(before[k]) is type(kept[k]) for k in growing if k in before
        )
        if path.exists() and has_rows and not same and not overwrite:
            raise UserError(
                f"{folder} holds results of other options: pass overwrite=true to replace them, "
                "or hydra.run.dir=FOLDER for another place"
            )
        if not overwrite and not path.exists() and has_rows:
            raise UserError(
                f"{folder} has {RESULTS} but no {RESOLVED}, so nobody knows its options: put that "
                "back, or pass overwrite=true"
            )
        remove_leftovers_in(folder)
        if overwrite or not path.exists() or not has_rows:
            (folder / RESULTS).unlink(missing_ok=True)
        else:  # what the rows there were made with stays told
            kept |= {k: joined(before[k], kept[k]) for k in growing if k in before}
        with replacing(path) as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(kept)))
        self.rows = read_rows(folder / RESULTS)
        earlier = folder / PROVENANCE
        facts = read_facts(earlier) if self.rows and earlier.exists() else {}
        # unknown where rows were made before the time was kept
        self._seconds = facts.get("seconds") if self.rows else 0.0
        self._earlier = {k: v for k, v in facts.items() if k == "own_streams"}
        last = [facts["git_commit"]] if "git_commit" in facts else []
        self._commits = facts.get("git_commits", last)
        self._start = time.perf_counter()
        self._stamp = _stamp(folder / RESULTS)
        try:
            self._done = {self._name(row) for row in self.rows}
        except KeyError as error:
            raise UserError(
                f"{folder / RESULTS} has a row without {error}: it is damaged or another "
                "experiment's; take another folder, or pass overwrite=true"
            ) from None

    def has(self, at: Row) -> bool:
        """Whether the work that a row of these values belongs to is finished."""
        return self._name(at) in self._done

    def add(self, rows: list[Row]) -> None:
        """Finished work: all its rows are written at once, or none.

        Beside them stands by what the last ones were made, and the seconds of all runs.
        """
        if _stamp(self.folder / RESULTS) != self._stamp:
            raise UserError(
                f"{self.folder / RESULTS} was changed by another run meanwhile: wait for that one "
                "to end, then start this one again"
            )
        self.rows += [rounded(row) for row in rows]
        facts: Row = {**self._earlier, **provenance(), "sizes": here()._asdict()}
        if "git_commit" in facts:  # of all parts, where a run went on
            facts["git_commits"] = [*dict.fromkeys([*self._commits, facts["git_commit"]])]
        if self._seconds is not None:
            facts["seconds"] = round(self._seconds + time.perf_counter() - self._start, 1)
        with replacing(self.folder / PROVENANCE) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
        with replacing(self.folder / RESULTS) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in self.rows))
        self._stamp = _stamp(self.folder / RESULTS)
        self._done |= {self._name(row) for row in rows}

    def _name(self, row: Row) -> str:
        return json.dumps(self._key(row), sort_keys=True)


def _stamp(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def joined(before: Any, now: Any) -> Any:
    """Both lists' values, each once, or the larger number."""
    return (
        [*before, *(x for x in now if x not in before)]
        if isinstance(now, list)
        else max(before, now)
    )


def run_grid(
    options: Any,
    folder: Path,
    run_setting: Callable[[Any, Row], list[Row]],
    by_selector: bool = False,
) -> list[Row]:
    """All settings of `options.grid`, those that `folder` already holds left as they are.

    Args:
        options: a dataclass with `grid`, `selectors` and `overwrite`.
        folder: where results.jsonl is kept.
        run_setting: rows of one setting, from its options and from what it changes.
        by_selector: selectors that a setting's results don't have are run and join them.

    Raises:
        ValueError: as `Results`; a value of the grid that the options refuse, before any work.
    """
    of_settings = settings_of(options)
    results = Results(
        folder,
        asdict(options),
        options.overwrite,
        key=lambda row: [row["setting"], row["selector"] if by_selector else None],
        growing=("selectors",) if by_selector else (),
    )
    for setting, of_setting in of_settings:
        names = of_setting.selectors if by_selector else [None]
        missing = [n for n in names if not results.has({"setting": setting, "selector": n})]
        if missing:
            own = replace(of_setting, selectors=missing) if by_selector else of_setting
            rows = run_setting(own, setting)
            results.add([{"setting": setting} | row for row in rows])
            live.log(finished=json.dumps(setting), rows=len(results.rows))
    return results.rows


def rounded(row: Row) -> Row:
    """Floats with six digits: what the figures need, in files that are kept."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def settings_of(options: Any) -> list[tuple[Row, Any]]:
    """Every setting of `options.grid`, and the options with it.

    Raises:
        ValueError: values that the options refuse.
    """
    schema, found = OmegaConf.structured(type(options)), []
    for setting in settings(options.grid):
        try:
            OmegaConf.merge(schema, setting)
        except OmegaConfBaseException as error:
            told = str(error).splitlines()[0]
            raise UserError(f"grid has a value of the wrong type in {setting}: {told}") from None
        found.append((setting, replace(options, **setting, grid={})))
    return found


def settings(grid: dict[str, list]) -> Iterator[Row]:
    """Every combination of a grid's values, as the options that each setting changes."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
