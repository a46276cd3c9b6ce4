"""The research entry points: `python -m experiments.synthetic`, `.words`."""
