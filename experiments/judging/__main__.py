"""The command that compares texts pairwise: `python -m experiments.judging RUN --judges ...`."""

from experiments.judging.main import main
from fisher_jax.command.compiled import keep_compiled

if __name__ == "__main__":
    keep_compiled()
    main()
