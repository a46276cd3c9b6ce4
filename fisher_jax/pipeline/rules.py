"""What the selectors say of themselves, as far as a request has to know it."""

from fisher_jax.scoring import OF_ROWS, OF_TOKENS
from fisher_jax.selectors import MODEL_SELECTORS, SELECTORS, Selector
from fisher_jax.util.errors import UserError

ALL = SELECTORS | MODEL_SELECTORS
_LABELS = {"losses", "el2n", "gradient_norm", "quality", "ifd"}


def offered() -> dict[str, Selector]:
    """Those whose needs the model or `targets` tell."""
    return {n: s for n, s in ALL.items() if {*s.needs} <= {*OF_ROWS, *OF_TOKENS, "targets"}}


def rule_of(name: str) -> Selector:
    """The selector of this name.

    Raises:
        UserError: there is none.
    """
    if name not in offered():
        raise UserError(f"`selector`: invalid choice {name!r} (choose from {', '.join(offered())})")
    return ALL[name]


def needs_model(name: str | None) -> bool:
    """Whether it needs more than embeddings."""
    return name is not None and bool(ALL[name].needs)


def by_label(name: str | None) -> bool:
    """Whether it looks at completions."""
    return name is not None and bool(_LABELS & {*ALL[name].needs})


def targeted() -> list[str]:
    """Those that take `targets`."""
    return sorted(name for name, s in ALL.items() if "targets" in s.options)


def needs_of(name: str | None) -> list[str]:
    """What the model has to tell it."""
    return [] if name is None else [need for need in ALL[name].needs if need != "targets"]
