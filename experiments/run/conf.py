"""How conf/ is read: a folder an experiment, with what they share beside them."""

import string
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from experiments.run.sweeps import job_folder

CONF = Path(__file__).parents[2] / "conf"
HELP = string.Template("""\
$options
# wandb.KEY, of conf/wandb:
$wandb
# A grid: 'grid={dim:[5,10],n_labels:[20,50]}'. A sweep: -m dim=5,10. More: docs/launchers.md.
# Experiments, each described in conf/$name/experiment; experiment=NAME is one of
#   $experiments
# All options as they would be used: --cfg job. Hydra's own: --hydra-help.""")


class SharedConf(SearchPathPlugin):
    """conf/hydra and conf/wandb are there for every experiment's folder of conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add conf/ itself."""
        search_path.append("fisher_jax", f"file://{CONF}")


def options_help(name: str) -> str:
    """The text of --help: the options with their comments, as conf/ has them."""
    folder = CONF / name
    head, _, rest = (folder / "config.yaml").read_text().partition("defaults:\n")
    options = rest.partition("\n\n")[2].partition("\nhydra:")[0]
    experiments = sorted(path.stem for path in (folder / "experiment").glob("*.yaml"))
    text = HELP.substitute(
        name=name,
        options=f"{head}\n{options}",
        wandb=(CONF / "wandb/default.yaml").read_text(),
        experiments=" ".join(experiments),
    )
    return text.replace("$", "$$")  # Hydra fills in a template


def new_grid_keys(arguments: list[str]) -> list[str]:
    """`grid={...}` and `grid.KEY=...` with Hydra's mark that they may bring new keys."""
    return [f"++{a}" if a.startswith(("grid=", "grid.")) else a for a in arguments]


Plugins.instance().register(SharedConf)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
OmegaConf.register_new_resolver("modulo", lambda number, n: number % n, replace=True)  # pins jobs
OmegaConf.register_new_resolver("options_help", options_help, replace=True)
