"""FisherSFT's synthetic problem: a planted softmax model, every selector, error bars.

`python -m experiments.synthetic experiment=paper`; `conf/synthetic/experiment/` has the others.
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.run.results import Row, run_grid
from experiments.softmax import information, lemma, runtime
from experiments.softmax.generators import CORPUS_DIM, CORPUS_ROWS, GENERATORS, make_problem
from experiments.softmax.study import StudyOptions, one_of, positive, study
from fisher_jax.util.errors import UserError


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
        if self.generator == "language":
            for key, most in (("n_examples", CORPUS_ROWS), ("dim", CORPUS_DIM)):
                if getattr(self, key) > most:
                    raise UserError(
                        f"{key} must be at most {most} for generator=language, "
                        f"got {getattr(self, key)}"
                    )
        if self.kind in ("information", "lemma") and "fisher_random_unweighted" in self.selectors:
            raise UserError(
                "selectors has fisher_random_unweighted, which differs from fisher_random in the "
                f"fit alone, and kind={self.kind} fits nothing: leave it out"
            )
        if self.n_subsets < 0 or (self.n_subsets > 0) != (self.kind == "information"):
            raise UserError(
                "n_subsets must be at least 1 for kind=information and 0 for others, got "
                f"{self.n_subsets}"
            )


def curve(options: Options, setting: Row) -> list[Row]:
    """Errors against n."""
    return study(options, setting, make_problem)


KINDS = {
    "curve": curve,
    "information": information.study,
    "lemma": lemma.study,
    "runtime": runtime.study,
}


def run(options: Options, folder: Path) -> list[Row]:
    """Rows of all settings; see `run_grid`.

    Raises:
        ValueError: an option that would do nothing.
    """
    given = (options.lengths, options.mean_length) != (Options.lengths, Options.mean_length)
    if given and options.generator == "language" and "generator" not in options.grid:
        raise UserError(
            "lengths and mean_length do nothing for generator=language, whose sentences have "
            "their own lengths: leave them out"
        )
    return run_grid(options, folder, KINDS[options.kind], by_selector=options.kind == "curve")
