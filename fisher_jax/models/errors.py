"""The error of a model that can't be used."""

from fisher_jax.util.errors import UserError


class ModelError(UserError):
    """A model that can't be had or used; the message says which, why and what to do."""
