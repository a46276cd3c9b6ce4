"""The one table of all rules, made from what their decorators say: for a terminal, and for docs."""

import textwrap
from collections.abc import Callable, Iterable

from fisher_jax.selectors.registry import SELECTORS, Rule

NOT_MEASURED = "in no study with intervals"
LEGEND = (
    "the difference to uniform rows with its 95% interval, below 0 is better, in the study nearest "
    "to fine-tuning that has the rule"
)
_BY_TOKENS = {
    "gain": "by gain, whatever a row costs",
    "gain_per_cost": "by gain divided by cost",
    None: "in the rule's order",
}


def needs(rule: Rule) -> str:
    """What a rule must be given beside a pool and a budget, in words."""
    if rule.planted:
        return "the true last layer"
    told = [f"a model ({name})" for name in rule.needs if name != "targets"]
    if rule.targeted:
        told.append("rows of a task" if "targets" in rule.needs else "may be told rows of a task")
    return ", ".join(told) or "nothing more"


def by_tokens(rule: Rule) -> str:
    """How a rule spends a token budget, in words."""
    return _BY_TOKENS[rule.criterion]


def listing(rules: Iterable[Rule] | None = None, width: int = 100) -> str:
    """An entry a rule, for a terminal: what it favours, what it needs, what was measured."""
    entries = []
    for rule in SELECTORS.values() if rules is None else rules:
        text = (
            f"{rule.name}: {rule.favours}. Needs: {needs(rule)}. "
            f"Token budget: {by_tokens(rule)}. Measured: {rule.measured or NOT_MEASURED}."
        )
        entries.append(textwrap.fill(text, width, subsequent_indent="    "))
    note = f"Measured is {LEGEND}."
    return "\n".join([*entries, textwrap.fill(note, width, subsequent_indent="    ")])


PAGE = """# Selectors

{table}
`fisher-select --list-selectors` prints this; in Python `fj.SELECTORS[name](emb, n_samples=...)`
chooses by a rule, `fj.SELECTORS[name].needs` tells what else it must be given. *Measured* is
{legend}. Five replicates are few: [which selector when](which_selector.md) reads them.

## What a token budget means

No rule exceeds a budget. A row that no longer fits is passed over, and smaller ones go on being
taken. Rules that go by gains have a criterion, which `criterion=` changes: `"gain"` takes the row
of the largest gain, whatever it costs; `"gain_per_cost"` takes the row whose gain divided by its
cost is largest. A cost is what `costs` says, else the row's tokens, also for a budget of rows.
`fj.select`, and the command without `--selector`, go by `"gain"` for a budget of rows and by
`"gain_per_cost"` for one of tokens. All other rules take rows in their own order.

## What else a rule takes

- Rows that are owned already (`--initial`), from which gains count: {adds}.
- Rows of a task (`--targets`): {targeted}.
- A quality of each row (`--quality`), in nats beside its gain: {weighs}.
- Groups of rows with caps (`--group-by`): all but {ungrouped}.

## A rule of one's own

```python
import numpy as np

import fisher_jax as fj
from fisher_jax.design import take
from fisher_jax.selectors import rule


@rule("rows of the fewest tokens")
def shortest(emb, budget, terms):
    return take(budget, np.argsort(emb.lengths, kind="stable"))


emb = fj.TokenEmbeddings.from_list([np.ones((3, 2)), np.eye(2), np.ones((1, 2))])
assert fj.SELECTORS["shortest"](emb, n_samples=2).ranking.tolist() == [2, 1]
```

`terms` has the ridge, the seed and `on_progress`. What a rule must be told beside the embeddings
stands in `needs=` and comes by name, as its own options do. Experiments know it by its name once
its module is imported.
"""


def page() -> str:
    """docs/selectors.md."""
    page = PAGE.replace("{table}", markdown()).replace("{legend}", LEGEND)
    for takes in ("adds", "targeted", "weighs"):
        page = page.replace(f"{{{takes}}}", _names(lambda rule, of=takes: getattr(rule, of)))
    return page.replace("{ungrouped}", _names(lambda rule: not rule.grouped))


def _names(is_named: Callable[[Rule], bool]) -> str:
    return ", ".join(f"`{rule.name}`" for rule in SELECTORS.values() if is_named(rule))


def markdown() -> str:
    """The same as a table in Markdown."""
    lines = [
        "| selector | favours | needs | a token budget is spent | measured |",
        "|---|---|---|---|---|",
    ]
    for rule in SELECTORS.values():
        measured = rule.measured or NOT_MEASURED
        cells = (f"`{rule.name}`", rule.favours, needs(rule), by_tokens(rule), measured)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
