"""`python -m fisher_jax.command` is `fisher-select`."""

from fisher_jax.command.start import start

start()
