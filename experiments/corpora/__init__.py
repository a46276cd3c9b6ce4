"""Texts for the experiments: Shakespeare, Sherlock, and pools spoilt on purpose.

A corpus is one entry in `corpora`, a kind of pool one in `pools`.
"""
