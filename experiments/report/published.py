"""Numbers that others published: published.yaml beside this file."""

from pathlib import Path

from omegaconf import OmegaConf

from experiments.report.tables import table

PUBLISHED = OmegaConf.load(Path(__file__).parent / "published.yaml")


def published_wins() -> str:
    """Shares of pairs that FisherSFT's texts won, as published."""
    head, *lines = ([key, *map(str, values)] for key, values in PUBLISHED.judged.items())
    return table(head, lines)
