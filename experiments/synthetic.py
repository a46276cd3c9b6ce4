"""The command of the synthetic problem: `python -m experiments.synthetic experiment=paper`."""

from experiments.report.figures import draw_all
from experiments.run.harness import start

if __name__ == "__main__":
    start("synthetic", "experiments.softmax.synthetic", draw_all)
