"""A foreign tokenizer.json tried in a process of its own, with limits, before it is used.

Its patterns and normalisers are programs: some take forever, all memory, or end the process.
"""

import sys
from pathlib import Path

CPU_SECONDS, WALL_SECONDS, MEMORY = 20, 300, 4 << 30
_WORDS = "It's 1,999 naïve words — «so» 你好 🎭 e\u0301\t x_y.z()\r\n\r\n  "
PROBES = (_WORDS * 20, *(unit * 2000 for unit in ("a", " ", "1", "!", "\n", "aA", "a ", "é")))
MOST_TOKENS = 40  # for a character of a probe: bytes of a character and some more


def probe_tokenizer(file: Path) -> None:
    """Refuse a tokenizer.json that can't cut ordinary texts.

    Raises:
        ModelError: it takes too long, too much memory, makes too much of a text, or breaks.
    """
    import subprocess

    from fisher_jax.models.errors import ModelError

    problem = None
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__, str(file), str(CPU_SECONDS)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WALL_SECONDS,
        )
        if done.returncode < 0:
            problem = f"it was ended by signal {-done.returncode}"
        elif done.returncode:
            problem = (done.stderr.strip().splitlines() or ["it was ended"])[-1][:200]
    except subprocess.TimeoutExpired:
        problem = "it takes too long"
    if problem is not None:
        raise ModelError(
            f"{file}: this tokenizer can't cut a short text within {CPU_SECONDS} seconds and "
            f"{MEMORY >> 30} GiB ({problem}): get the model's own file"
        )


def _main(file: str, seconds: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limits here: the time limit stays
        pass
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    for text in PROBES:
        try:
            ids = tokenizer.encode(text).ids
        except Exception:  # it doesn't know these characters: told where a text has them
            continue
        if len(ids) > MOST_TOKENS * len(text):
            sys.exit(f"{len(ids)} tokens of {len(text)} characters")


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
