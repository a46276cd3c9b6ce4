"""Numbers in README and docs are those of the committed measurements."""

import json
import re
from pathlib import Path

import pytest

from scripts.cost_model import MESSAGE_S, RUNS, estimate, fitted, table

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ESTIMATE = re.compile(r"[+-]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?")


def measured():
    """What README and docs/speed.md tell, from the benchmark's files."""
    ours = json.loads((ROOT / "benchmarks/results.json").read_text())
    card = json.loads((ROOT / "benchmarks/accelerator/nvidia_h200.json").read_text())
    cpu, gpu = ours["selection"], card["selection"]["parts"]["n5000_d576"]
    memory, growth = ours["memory"], ours["growth"]
    gpu_compiles = gpu["cold_s"] - gpu["warm_s"]
    return {
        "selection": f"| {cpu['select_warm_s']:.1f} s | {gpu['warm_s']:.2f} s |",
        "compilation": f"{cpu['compilation_s']:.1f} s more | {gpu_compiles:.0f} s more |",
        "a choice": f"{gpu['ms_a_choice']:.2f} ms",
        "products": f"| {cpu['select_in_products']:.1f} | {gpu['select_in_products']:.0f} |",
        "NumPy's products": f"| {cpu['select_in_numpy_products']:.0f} |",
        "Algorithm 1": f"| {round(cpu['speedup_over_algorithm_1'], -1):,.0f} |",
        "Algorithm 2": f"| {cpu['speedup_over_algorithm_2']:.0f} |",
        "peak": f"{memory['peak_resident_bytes'] / 1e9:.2f} GB",
        "embeddings": f"{memory['embeddings_bytes'] / 1e9:.2f} GB",
        "growth with N": f"N^{growth['exponent_N']:.2f}",
        "growth with n": f"n^{growth['exponent_n']:.2f}",
        "drift": f"{ours['drift']['largest_relative_error']:.0e}".replace("e-0", "e-"),
        "tokens": f"{ours['embedding']['tokens_per_s']:.0f} tokens a second",
        "embedding": f"| {ours['embedding']['speedup']:.2f} |",
        "training": f"| {ours['training']['speedup']:.2f} |",
        "generation": f"| {ours['generation']['speedup']:.2f} |",
        "fits": f"| {ours['fits']['speedup']:.1f} |",
    }


@pytest.mark.parametrize("name", measured())
def test_speed_is_the_benchmark_s(name):
    text = " ".join((ROOT / "docs/speed.md").read_text().split())
    assert measured()[name] in text


NARROW = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    **{f"projected to {k}": f"`--project-dim {k}`" for k in (256, 128, 64)},
    "principal 64": "the 64 principal directions",
    "uniform": "(random rows)",
}


@pytest.mark.parametrize("name", NARROW)
def test_what_less_of_the_embeddings_keeps_is_the_benchmark_s(name):
    part = json.loads((ROOT / "benchmarks/results.json").read_text())["narrow"]
    rows, tokens = (part[unit][name]["share"] for unit in ("rows", "tokens"))
    page = (ROOT / "docs/scaling.md").read_text()
    assert f"| {NARROW[name]} | {rows:.4f} | {tokens:.4f} |\n" in page
    assert f"{part['choices']} of {part['shape'][0]:,} sentences" in page


def test_cells_of_a_study_are_the_benchmark_s():
    part = json.loads((ROOT / "benchmarks/results.json").read_text())["cells"]
    page = (ROOT / "docs/speed.md").read_text()
    assert f"Two cores finish {part['cells_an_hour']:.0f} cells of" in page
    assert f"{part['rows']} rows chosen" in page and f"tested on {part['test_rows']} rows" in page


INEXACT = {
    **{name: f"`{name}`" for name in ("fisher_stochastic", "fisher_sieve", "fisher_in_parts")},
    **{f"projected to {k}": f"`--project-dim {k}`" for k in (256, 128)},
}


@pytest.mark.parametrize("name", INEXACT)
def test_what_inexact_rules_keep_is_the_benchmark_s(name):
    own = json.loads((ROOT / "benchmarks/results.json").read_text())["approximate"][name]
    mean, least = own["mean_share_of_exact"], own["least_share_of_exact"]
    tokens, time = own["mean_share_at_equal_tokens"], own["time_in_exact"]
    line = f"| {INEXACT[name]} | {mean:.3f} | {least:.3f} | {tokens:.3f} | {time:.1f} |\n"
    assert line in (ROOT / "docs/speed.md").read_text()


def test_the_pool_larger_than_memory_is_that_of_its_run():
    run = json.loads((ROOT / "benchmarks/streaming.json").read_text())
    whole, streamed, in_memory = run["all"], run["part_streamed"], run["part_in_memory"]
    text = " ".join((ROOT / "docs/scaling.md").read_text().split())
    assert run["same_ranking"]
    times = whole["ms_per_evaluated_row"] / in_memory["ms_per_evaluated_row"]
    for said in (
        f"of {whole['rows']:,} synthetic rows",
        f"took {whole['seconds'] / 60:.0f} minutes and {whole['peak_gb']} GB at the peak",
        f"{whole['evaluated']:,} gains",
        f"first {streamed['rows']:,} rows",
        f"at {run['times_in_memory']:.1f} times its time",
        f"each in {times:.1f} times the milliseconds of",
        f"with {streamed['peak_gb']} GB against {in_memory['peak_gb']}",
    ):
        assert said in text


def test_the_model_of_large_pools_is_that_of_the_runs():
    model = fitted(json.loads(RUNS.read_text()))
    page = (ROOT / "docs/scaling.md").read_text()
    text = " ".join(page.split())
    assert table(model) in page
    assert f"a = {model.choice * 1e3:.2f} ms, b = {model.token * 1e6:.2f} µs" in text
    assert f"c = {model.token_choice * 1e9:.1f} ns" in text
    assert f"two messages of {MESSAGE_S * 1e6:.0f} µs a choice" in text
    largest = estimate(model, 10_000_000, 1)
    assert f"{largest.bytes_a_device * largest.devices / 1e9:.0f} GB for ten million" in text


def test_estimates_stand_in_the_generated_tables():
    tables = [ROOT / "RESULTS.md", *(ROOT / "results").rglob("README.md")]
    known = set(ESTIMATE.findall("\n".join(path.read_text() for path in tables)))
    for page in PAGES:
        unknown = [e for e in ESTIMATE.findall(page.read_text()) if _as_table(e, known) is None]
        assert unknown == [], f"{page.name}: no table in results has {unknown}"


def _as_table(estimate, known):
    """The table's own estimate of which a page's is a rounding, the sign apart if it has none."""
    value, half = (float(x) for x in estimate.split(" ± "))
    step = 10.0 ** -len(estimate.split(" ± ")[0].partition(".")[2])
    for other in known:
        v, h = (float(x) for x in other.split(" ± "))
        v = v if estimate[0] in "+-" else abs(v)
        if abs(v - value) <= 0.5001 * step and abs(h - half) <= 0.5001 * step:
            return other
    return None
