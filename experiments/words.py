"""The command of the word-embedding study: `python -m experiments.words experiment=paper`."""

from experiments.report.figures import draw_all
from experiments.run.harness import start

if __name__ == "__main__":
    start("words", "experiments.softmax.words", draw_all)
