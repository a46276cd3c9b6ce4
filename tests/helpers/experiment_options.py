"""Options of the experiments: the committed ones, and small ones of the synthetic study."""

from pathlib import Path

from omegaconf import OmegaConf

from experiments.language import main as language
from experiments.run.harness import checked
from experiments.softmax import synthetic, words

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "language": language.Options,
    "synthetic": synthetic.Options,
    "words": words.Options,
}
SMALL = {"n_examples": 40, "dim": 3, "n_labels": 4, "budgets": [4, 12], "replicates": 2}


def base_config(name):
    base = OmegaConf.load(ROOT / f"conf/{name}/config.yaml")
    return {k: v for k, v in base.items() if k not in ("defaults", "hydra")}


def committed(name, experiment):
    """The options of a committed experiment."""
    delta = OmegaConf.load(ROOT / f"conf/{name}/experiment/{experiment}.yaml")
    return checked(OmegaConf.merge(base_config(name), delta), OPTIONS[name])


def options(**changes):
    return checked(OmegaConf.create(base_config("synthetic") | changes), synthetic.Options)


def language_options(model_folder, **changes):
    delta = OmegaConf.load(ROOT / "conf/language/experiment/smoke.yaml")
    given = base_config("language") | dict(delta) | {"model": str(model_folder)} | changes
    return checked(OmegaConf.create(given), language.Options)
