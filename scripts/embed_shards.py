"""Embed a pool in parts, a job each, into one cache: on this machine, on Slurm, or by Ray.

`python -m scripts.embed_shards --on slurm --jobs 8 --set slurm_partition=P gpus_per_node=1 -- \\
POOL --model M --cache DIR`: what stands after `--` is for `fisher-select embed`. The same command
again goes on where it was: parts that are done take a moment.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fisher_jax.util.errors import UserError
from fisher_jax.util.excerpt import one_line

LOGS = Path("outputs/embed_shards")
Options = dict[str, Any]


def embed(words: Sequence[str], part: int, parts: int) -> int:
    """A job: the exit code of one part."""
    command = [sys.executable, "-m", "fisher_jax.command", "embed", *words]
    return subprocess.run([*command, "--shard", f"{part}/{parts}"]).returncode


def by_submitit(cluster: str | None) -> Callable[[Sequence[str], int, Options], list[int]]:
    """Jobs of submitit, an array on Slurm; what they print is under `LOGS`."""

    def run(words: Sequence[str], parts: int, options: Options) -> list[int]:
        import submitit
        from submitit.core.utils import FailedJobError

        numbers = range(1, parts + 1)
        try:
            executor = submitit.AutoExecutor(LOGS, cluster=cluster)
            executor.update_parameters(**{"name": "embed_shards", "timeout_min": 24 * 60} | options)
            jobs = executor.map_array(embed, [words] * parts, numbers, [parts] * parts)
        except (NameError, RuntimeError, FailedJobError) as error:
            raise UserError(f"submitit can't start the jobs: {one_line(error)}") from None
        print(f"embed_shards: jobs {jobs[0].job_id} to {jobs[-1].job_id}, logs in {LOGS}")
        return [1 if job.exception() else job.result() for job in jobs]

    return run


def by_ray(words: Sequence[str], parts: int, options: Options) -> list[int]:
    """Tasks of Ray, on the cluster that `RAY_ADDRESS` names or on this machine."""
    import ray  # pyright: ignore[reportMissingImports]

    try:
        ray.init()
        task = ray.remote(embed).options(**options)
    except (ValueError, ConnectionError) as error:
        raise UserError(f"Ray can't start the jobs: {one_line(error)}") from None
    codes = ray.get([task.remote(words, k, parts) for k in range(1, parts + 1)])
    ray.shutdown()
    return codes


LAUNCHERS = {"here": by_submitit("local"), "slurm": by_submitit("slurm"), "ray": by_ray}


def main(arguments: Sequence[str]) -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--on", choices=LAUNCHERS, default="here")
    p.add_argument("--jobs", type=int, required=True, help="parts of the pool; here all at once")
    p.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="submitit's parameters (timeout_min=600, default a day, slurm_partition=P, "
        "gpus_per_node=1, mem_gb=64), or those of a task of Ray (num_gpus=1)",
    )
    p.add_argument("embed", nargs="+", metavar="-- POOL ...", help="for `fisher-select embed`")
    args = p.parse_args(arguments)
    if args.jobs < 1:
        p.error(f"--jobs must be at least 1, got {args.jobs}")
    if args.on != "here" and "--cache" not in args.embed:
        p.error("--cache DIR after -- must name a folder that all machines see")
    options = {key: _value(text) for key, _, text in (pair.partition("=") for pair in args.set)}
    codes = LAUNCHERS[args.on](args.embed, args.jobs, options)
    failed = [f"{k}/{args.jobs}" for k, code in enumerate(codes, start=1) if code]
    if failed:
        raise UserError(f"parts {', '.join(failed)} were not embedded, and their logs say why")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"embed_shards: error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else "launchers"
        print(f"embed_shards: error: {error}: pip install -e '.[{extra}]'", file=sys.stderr)
        sys.exit(2)
