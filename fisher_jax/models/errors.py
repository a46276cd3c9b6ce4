"""The error of a model that can't be used."""


class ModelError(ValueError):
    """A model that can't be had or used; the message says which, why and what to do."""
