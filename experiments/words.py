"""The command of the word-embedding study: `python -m experiments.words experiment=paper`."""

from experiments.run.harness import start

if __name__ == "__main__":
    start("words", "experiments.softmax.words")
