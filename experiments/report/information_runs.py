"""Pages of the runs that fit nothing: information of subsets, run time; and what remedies keep."""

import numpy as np
from scipy import stats

from experiments.report.runs import Run, grouped_means
from experiments.report.statistics import Estimate, estimate, group, matching, values_of
from experiments.report.tables import Cell, in_percent, in_seconds, plain, table
from experiments.run.results import Row


class InformationRun(Run):
    """Exact information and its bound, of random subsets and of selections."""

    def correlation(self, n: int) -> Estimate:
        """Spearman's correlation of bound and exact information over the random subsets."""
        of_replicate = group(self.of(n=n, selector="random"), "replicate")
        return estimate(
            stats.spearmanr([r["bound"] for r in v], [r["exact"] for r in v]).statistic  # pyright: ignore
            for v in of_replicate.values()
        )

    def correlations(self) -> str:
        """The same for every n."""
        lines = [[str(n), plain(self.correlation(n))] for n in self.ns]
        return table(["n", "rank correlation of bound and exact information"], lines)

    def gaps(self) -> str:
        """The bound less the exact information, in nats."""
        lines = [
            [name, *(gap(self.of(selector=name, n=n)) for n in self.ns)]
            for name in self.values("selector")
        ]
        return table(["bound less exact, nats", *(f"n = {n}" for n in self.ns)], lines)

    def gain(self, name: str, n: int) -> Estimate:
        """Exact information of a selection, in percent above the mean of uniform draws."""
        base = {
            replicate: np.mean([r["exact"] for r in own])
            for (replicate,), own in group(self.of(selector="random", n=n), "replicate").items()
        }
        rows = self.of(selector=name, n=n)
        return estimate(100 * (r["exact"] / base[r["replicate"]] - 1) for r in rows)

    def information(self) -> str:
        """The same for every selector and n."""
        lines: list[list[Cell]] = [
            [name, *(in_percent(self.gain(name, n), 1) for n in self.ns)]
            for name in self.values("selector")
            if name != "random"
        ]
        head = "exact information against uniform draws"
        return table([head, *(f"n = {n}" for n in self.ns)], lines)


class LemmaRun(Run):
    """Lemma 3.1's lower bound beside the exact information."""

    @property
    def is_true(self) -> bool:
        """Of every set."""
        return all(r["lemma"] <= r["log_det"] for r in self.rows)

    def of_point(self, key: str, **point: object) -> Estimate:
        """Mean over replicates."""
        return estimate(r[key] for r in self.of(**point))

    def bounds(self, n: int) -> str:
        """Bound, exact information and gamma, a line a generator and selector."""
        lines: list[list[Cell]] = []
        for generator in self.values("generator"):
            for name in self.values("selector"):
                point = {"generator": generator, "selector": name, "n": n}
                bound, exact = (self.of_point(key, **point) for key in ("lemma", "log_det"))
                gamma = 10 ** np.mean([np.log10(r["gamma"]) for r in self.of(**point)])
                lines.append([generator, name, f"{gamma:.0e}", nats_of(bound), nats_of(exact)])
        return table(["generator", "selector", "gamma", "Lemma 3.1, nats", "exact, nats"], lines)


def nats_of(e: Estimate) -> str:
    """Whole nats with their interval."""
    return f"{e.mean:.0f} ± {e.half:.0f}"


class RuntimeRun(Run):
    """Seconds of the published algorithms and of ours."""

    def speed_up(self, n: int, slow: str, fast: str) -> float:
        """Mean seconds of one over those of the other."""
        means = grouped_means(self.of(n=n), "seconds")
        return means[slow].mean / means[fast].mean

    def seconds(self) -> str:
        """Run times and speed-ups."""
        lines = []
        for n in self.ns:
            means = grouped_means(self.of(n=n), "seconds")
            ours = [r for r in self.of(n=n) if "shared" in r]
            cells = [
                f"{in_seconds(means[name])} ({self.speed_up(n, name, 'fisher_jax'):.1f}x)"
                for name in ("algorithm_1", "algorithm_2")
            ]
            shared = f"{100 * np.mean([r['shared'] for r in ours]):.1f} %"
            same = "yes" if all(r["same_in_float64"] for r in ours) else "no"
            lines.append([str(n), *cells, in_seconds(means["fisher_jax"]), shared, same])
        head = ["n", "Algorithm 1", "Algorithm 2", "ours", "shared picks", "same order in float64"]
        return table(head, lines)


class RemediesRun(Run):
    """Remedies of the selection bias where there is none: what do they cost?"""

    def kept(self, metric: str) -> str:
        """Share of fisher's advantage over uniform that each remedy keeps (ratio of means)."""
        means = {n: grouped_means(self.of(n=n), metric) for n in self.ns}
        lines = []
        for name in self.values("selector"):
            if name not in ("uniform", "fisher"):
                lines.append([name, *(f"{100 * share(of, name):.0f} %" for of in means.values())])
        return table(["kept of fisher's advantage", *(f"n = {n}" for n in means)], lines)


def share(means: dict[str, Estimate], name: str) -> float:
    """Of fisher's advantage over uniform, how much a selector has."""
    return (means["uniform"].mean - means[name].mean) / (
        means["uniform"].mean - means["fisher"].mean
    )


def gap(rows: list[Row]) -> str:
    """Mean of bound less exact over replicates, beside the mean bound."""
    e = estimate(
        float(np.mean([r["bound"] - r["exact"] for r in matching(rows, replicate=k)]))
        for k in values_of(rows, "replicate")
    )
    return f"{e.mean:.1f} ± {e.half:.1f} of {np.mean([r['bound'] for r in rows]):.0f}"
