"""Optimal design: token embeddings of a pool, gains of information, budgets, greedy choice.

The public functions stay as they are; the loops, batches and factors behind them may change.
"""
