"""`python -m fisher_jax.selectors > docs/selectors.md`: the page of all selectors."""

from fisher_jax.selectors.table import page

print(page(), end="")
