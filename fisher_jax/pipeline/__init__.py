"""The main path: read -> unique -> tokenize -> embed -> score -> select -> write, as values.

`choose`, `Request` and `Choice` stay; how the work is cut into steps may change. It prints nothing.
"""

from typing import TYPE_CHECKING

from fisher_jax.util.lazy import lazily

if TYPE_CHECKING:
    from fisher_jax.pipeline.choice import Choice
    from fisher_jax.pipeline.clock import Clock, Step
    from fisher_jax.pipeline.output import Output
    from fisher_jax.pipeline.plan import Plan
    from fisher_jax.pipeline.request import Request
    from fisher_jax.pipeline.run import choose, finish, prepare

__all__ = [
    "Choice",
    "Clock",
    "Output",
    "Plan",
    "Request",
    "Step",
    "choose",
    "finish",
    "prepare",
]
__getattr__ = lazily(
    __name__,
    {
        "fisher_jax.pipeline.choice": "Choice",
        "fisher_jax.pipeline.clock": "Clock Step",
        "fisher_jax.pipeline.output": "Output",
        "fisher_jax.pipeline.plan": "Plan",
        "fisher_jax.pipeline.request": "Request",
        "fisher_jax.pipeline.run": "choose finish prepare",
    },
)
