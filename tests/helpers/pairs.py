"""Pairs of continuations that the judges are tried on."""

from experiments.judging.judge import Pair

PAIR = Pair("To be", ", or not to be", " and then was not")
PAIRS = [
    Pair("to be", " or not to be", " mind the nobler"),
    Pair("that is", " the question", " be"),
    Pair("whether tis nobler in the mind", " to be or not to be", " question or be to"),
]
