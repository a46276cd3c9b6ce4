"""Rebuild RESULTS.md, results/*/*/README.md and what selectors say of themselves, or plot results.

python -m experiments.report                    pages and figures from results/ alone
python -m experiments.report --collect outputs  after taking over what was run there: a sweep's
                                                jobs (multirun/EXPERIMENT) as one run
python -m experiments.report RUN ... -o FOLDER  figures of any results folders, side by side
"""

import argparse
from pathlib import Path

import jinja2

from experiments.language.noise import DIFFERENCE
from experiments.report.claims import claims
from experiments.report.committed import KEPT, ROOT, STREAMS, STUDIES, collect
from experiments.report.compare import compare
from experiments.report.information_runs import InformationRun, LemmaRun, RemediesRun, RuntimeRun
from experiments.report.language_runs import LanguageRun
from experiments.report.measured import measured
from experiments.report.published import PUBLISHED, published_wins
from experiments.report.runs import Run
from experiments.report.tables import nats, plain
from experiments.run.harness import reporting
from experiments.run.packed import PACKED
from fisher_jax.selectors.registry import MEASURED
from fisher_jax.util.files import replacing

PAGES = Path(__file__).parent / "pages"
OF_THEIR_OWN = {
    "information": InformationRun,
    "information_small": InformationRun,
    "lemma": LemmaRun,
    "runtime": RuntimeRun,
    "remedies": RemediesRun,
}
Runs = dict[str, Run]  # STUDY/EXPERIMENT: run


def main() -> None:
    """Parse, collect if asked, draw and write."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("run", nargs="*", type=Path, help="a results folder, or a sweep's")
    p.add_argument("-o", "--output", type=Path, help="where figures of these runs go")
    p.add_argument("--collect", type=Path, metavar="OUTPUTS", help="take over runs from here first")
    args = p.parse_args()
    if bool(args.run) != bool(args.output) or (args.run and args.collect):
        p.error("RUN ... and -o FOLDER go together, and without --collect")
    with reporting("experiments.report"):
        if args.run:
            for path in compare(args.run, args.output):
                print(path)
            return
        if args.collect:
            for line in collect(args.collect):
                print(line)
        for path, text in pages(kept_runs()).items():
            with replacing(path) as temporary:
                temporary.write_text(text)


def kept_runs() -> Runs:
    """All runs of results/, in the order of their names."""
    runs: Runs = {}
    for study in STUDIES:
        for folder in sorted(path.parent for path in (KEPT / study).glob(f"*/{PACKED}")):
            kind = LanguageRun if study == "language" else OF_THEIR_OWN.get(folder.name, Run)
            runs[f"{study}/{folder.name}"] = kind(study, folder.name)
    return runs


def pages(runs: Runs) -> dict[Path, str]:
    """path: text of RESULTS.md, of each run's page and of `measured`; draws figures on the way."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"published": PUBLISHED, "published_wins": published_wins()}
    environment.globals |= {"plain": plain, "nats": nats, "difference": DIFFERENCE}
    made = {
        run.folder / "README.md": environment.select_template(
            [f"{name}.md.j2", "run.md.j2"]
        ).render(r=run, runs=runs)
        for name, run in runs.items()
    }
    results = environment.get_template("RESULTS.md.j2")
    return made | {
        MEASURED: measured(runs),
        ROOT / "RESULTS.md": results.render(runs=runs, claims=claims(runs), streams=STREAMS[:10]),
    }
