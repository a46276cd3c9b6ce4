"""The command of the language experiment: `python -m experiments.language experiment=cpu`."""

from experiments.report.figures import draw_all
from experiments.run.harness import start

if __name__ == "__main__":
    start("language", "experiments.language.main", draw_all)
