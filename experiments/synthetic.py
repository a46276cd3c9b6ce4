"""FisherSFT's synthetic problem: a planted softmax model, every selector, error bars.

`python -m experiments.synthetic experiment=paper`; `conf/synthetic/experiment/` has the others.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments import information, runtime
from experiments.generators import GENERATORS, make_problem
from experiments.harness import start
from experiments.results import Row, run_grid
from experiments.softmax_study import StudyOptions, one_of, positive, study


@dataclass
class Options(StudyOptions):
    """Options of the synthetic experiment; `conf/synthetic/config.yaml` explains each."""

    kind: str = "curve"
    generator: str = "gaussian"
    lengths: str = "random"
    mean_length: int = 10
    n_types: int = 500
    labels: str = "generated"
    n_subsets: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "kind", [*KINDS])
        one_of(self, "generator", [*GENERATORS])
        one_of(self, "lengths", ["fixed", "random"])
        one_of(self, "labels", ["generated", "redrawn"])
        positive(self, "mean_length n_types")


def curve(options: Options, setting: Row) -> list[Row]:
    """Errors against n."""
    return study(options, setting, make_problem)


KINDS = {"curve": curve, "information": information.study, "runtime": runtime.study}


def run(options: Options, folder: Path) -> list[Row]:
    """Rows of all settings; see `run_grid`."""
    return run_grid(options, folder, KINDS[options.kind])


if __name__ == "__main__":
    start("synthetic")
