"""Rebuild every figure in docs/figures and RESULTS.md from the committed results alone.

`python -m experiments.report`; with `--collect`, first take over what lies in outputs/,
the jobs of a sweep in outputs/NAME/multirun/EXPERIMENT as one run.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

import jinja2
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.judging.main import JUDGED
from experiments.language.cells import Cell, work
from experiments.language.main import MANIFEST
from experiments.language.noise import NOISE
from experiments.language.options import Options
from experiments.language.picks import PICKS
from experiments.report.comparisons import compared, comparisons, forest
from experiments.report.figures import dots, learning_curves, parts
from experiments.report.language_tables import (
    LanguageTables,
    difference,
    judged,
    length_bias,
    picked,
)
from experiments.report.runs import FIGURES, KEPT, ROOT, Run, table
from experiments.report.statistics import group
from experiments.run.harness import CONF, checked
from experiments.run.results import PROVENANCE, RESOLVED, RESULTS
from experiments.run.sweeps import jobs_of, read_sweep
from fisher_jax.util.files import replacing


def main() -> None:
    """Parse, collect if asked, draw."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        "--collect",
        action="store_true",
        help="take over outputs/ and its sweeps into results/ first",
    )
    if p.parse_args().collect:
        collect()
    FIGURES.mkdir(parents=True, exist_ok=True)
    text = render()
    with replacing(ROOT / "RESULTS.md") as temporary:
        temporary.write_text(text)


def render() -> str:
    """RESULTS.md; draws the figures on the way."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"run": Run, "language": Language, "table": table, "kept": kept}
    return environment.get_template("RESULTS.md.j2").render()


def kept(name: str, experiment: str) -> bool:
    """Whether results of it are committed."""
    return (KEPT / name / experiment / f"{RESULTS}.gz").exists()


def collect() -> None:
    """Results of the committed experiments, compressed."""
    for name in ("synthetic", "words", "language"):
        for config in sorted((ROOT / f"conf/{name}/experiment").glob("*.yaml")):
            source = ROOT / "outputs" / name / config.stem
            sweep = ROOT / "outputs" / name / "multirun" / config.stem
            target = KEPT / name / config.stem
            if config.stem == "smoke":
                continue
            if not (source / RESULTS).exists():
                if jobs_of(sweep):
                    collect_sweep(sweep, target)
                continue
            target.mkdir(parents=True, exist_ok=True)
            for file in (RESOLVED, PROVENANCE, MANIFEST, JUDGED, PICKS, NOISE):
                if (source / file).exists():
                    shutil.copy(source / file, target / file)
            data = gzip.compress((source / RESULTS).read_bytes(), mtime=0)
            (target / f"{RESULTS}.gz").write_bytes(data)


def collect_sweep(folder: Path, target: Path) -> None:
    """The jobs of a sweep as one run."""
    sweep = read_sweep(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / RESOLVED).write_text(OmegaConf.to_yaml(OmegaConf.create(sweep.options)))
    (target / PROVENANCE).write_text(json.dumps(sweep.facts, indent=2) + "\n")
    made_of = {
        f"{job.name}/{where}": facts
        for job in jobs_of(folder)
        if (job / MANIFEST).exists()
        for where, facts in json.loads((job / MANIFEST).read_text()).items()
    }
    if made_of:
        (target / MANIFEST).write_text(json.dumps(made_of, indent=1, sort_keys=True) + "\n")
    lines = "".join(json.dumps(row) + "\n" for row in sweep.rows)
    (target / f"{RESULTS}.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


class Language(LanguageTables, Run):
    """A finished or partial language run."""

    def __init__(self, experiment: str) -> None:
        self.experiment, self.folder = experiment, KEPT / "language" / experiment
        Run.__init__(self, "language", experiment)

    def difference_figure(self, key: str, n: int, title: str) -> str:
        """A picture of the differences to uniform at equal tokens, a panel a value of `key`."""
        panels = {}
        for (value,) in group(self.rows, key):
            where = {key: value, "equal": "tokens", "n": n}
            base = self.of(selector="uniform", **where)
            panels[str(value)] = {
                name: difference(self.of(selector=name, **where), base, "held_out_nll")
                for (name,) in group(self.rows, "selector")
                if name != "uniform"
            }
        figure = dots(panels, "nats a token, left is better", {"uniform": 0})
        return self.picture(figure, "differences", title)

    def parts_figure(self, n: int, title: str) -> str:
        """A picture of the length and content parts at equal examples."""
        if not (of_selector := self.parts(n)):
            return "Equal examples were not run."
        return self.picture(parts(of_selector), "parts", title)

    def curves(self, key: str, title: str) -> str:
        """Held-out NLL against tokens, a panel a value of `key`."""
        panels = {str(v or ""): self.of(**{key: v}) for (v,) in group(self.rows, key)}
        return self.picture(learning_curves(panels), "curves", title)

    def compared(self, rule: str, opponents: list[str], key: str, title: str) -> str:
        """A rule against its opponents, corrected for their number, and a picture of it."""
        family = comparisons(self.rows, rule, opponents, key)
        figure = dots(forest(family, key), "nats a token, left is better", {rule: 0})
        return f"{self.picture(figure, 'forest', title)}\n\n{table(*compared(family, rule, key))}"

    @property
    def picks(self) -> dict:
        """What `experiments.language.picks` found."""
        return json.loads((self.folder / PICKS).read_text())

    def picked(self) -> str:
        """What the run's own selectors take first."""
        return table(*picked(self.picks, self.options.selectors))

    def by_proxy(self, pool: str, n: int) -> str:
        """Difference to uniform of the model's own choice and of the proxy's, for one pool."""
        of_pool = LanguageTables(self.of(pool=pool))
        head, lines = of_pool.against(["uniform"], "proxy", "tokens", n)
        return table([pool, *head[1:2], "own choice", "the proxy's"], lines)

    def length_bias(self) -> str:
        """How long the rows are that every selector takes."""
        return table(*length_bias(self.picks))

    @property
    def partial(self) -> str:
        """What of the committed grid is missing, if anything."""
        with initialize_config_dir(str(CONF / "language"), version_base="1.3"):
            wanted = compose("config", [f"experiment={self.experiment}"])
        done = {
            (json.dumps(r["setting"], sort_keys=True), r["replicate"], *map(r.get, Cell._fields))
            for r in self.rows
        }
        asked = {
            (json.dumps(of.setting, sort_keys=True), of.replicate, *cell)
            for of in work(checked(wanted, Options))
            for cell in of.cells
        }
        missing = len(asked - done)
        if not missing:
            return ""
        return f"**A partial grid: {missing} of its {len(asked)} cells are missing.**"

    def samples(self, selectors: list[str], count: int) -> str:
        """The first texts of replicate 0 at equal tokens."""
        lines = []
        for name in selectors:
            own = [r for r in self.of(selector=name, equal="tokens", replicate=0) if "texts" in r]
            for k, text in enumerate(own[0]["texts"][:count] if own else []):
                words = " ".join(text.split())
                lines.append([name, str(k + 1), words.replace("|", "/").replace("<", "&lt;")])
        return table(["selector", "prompt", "continuation"], lines)

    def judged(self) -> str:
        """Win rates against uniform, if the run was judged."""
        path = self.folder / JUDGED
        return (
            table(*judged(path.read_text(), self.options.n_prompts))
            if path.exists()
            else "Not judged."
        )
