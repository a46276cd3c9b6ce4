"""Programs that JAX has compiled, kept from one run of a command to the next.

Only commands ask for it; `import fisher_jax` leaves JAX's settings alone.
"""

import contextlib
import os
import warnings
from pathlib import Path

import filelock
import jax

from fisher_jax.util.user_folder import cpu_name, user_folder

SWITCH = "FISHER_JAX_COMPILED"  # "off": nothing is kept
SETTINGS = {
    "jax_compilation_cache_max_size": 1 << 30,  # bytes; what was not used for longest goes
    "jax_persistent_cache_min_compile_time_secs": 0.2,  # what compiles faster is not worth a file
}


def keep_compiled() -> None:
    """Keep programs in the user's cache folder, unless they or JAX's own settings say otherwise.

    JAX_COMPILATION_CACHE_DIR and JAX's other variables win. A folder that can't be used is left
    out without a word: a run only takes longer.
    """
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if os.environ.get(SWITCH) == "off" or chosen is not None:
        return
    try:
        folder = compiled_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever writes there runs code here
        _drop_halves(folder)
    except (OSError, RuntimeError):  # RuntimeError: nobody's home
        return
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def compiled_folder() -> Path:
    """`$XDG_CACHE_HOME/fisher_jax/compiled/CPU`, by default in ~/.cache.

    A folder a kind of CPU: homes are shared by machines, and code for another CPU may crash.
    """
    return user_folder() / "compiled" / cpu_name()


def _drop_halves(folder: Path) -> None:
    """Remove programs whose writer was killed, or ran out of disk, before it wrote their time.

    JAX writes nothing more while there is one.

    Raises:
        OSError: the folder can't be written to.
    """
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=0):
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                program.unlink()
