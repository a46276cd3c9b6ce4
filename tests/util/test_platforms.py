"""What a device's row of the table is asked from."""

import os
import signal

import pytest

import fisher_jax as fj
from fisher_jax.util.platforms import here


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_process_forked_after_jax_was_used_is_refused(emb):
    """It would wait for JAX's threads, which it has not, for ever."""
    here()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it where it waits
        try:
            fj.select(emb, n_samples=1)
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert "was forked after JAX" in told.read()
    os.waitpid(child, 0)
