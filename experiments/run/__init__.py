"""What every experiment shares: options, results that survive a kill, sweeps, wandb.

Knows no experiment; a new one starts from `start` and keeps its rows with `Results`.
"""
