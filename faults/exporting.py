"""A model saved over an earlier one: `python -m faults.exporting MODEL FOLDER`."""

import sys
from pathlib import Path

from experiments.run.harness import reporting
from fisher_jax.models import load_model
from fisher_jax.models.files.export import save_folder

if __name__ == "__main__":
    with reporting("faults.exporting"):
        save_folder(load_model(sys.argv[1]), Path(sys.argv[2]), overwrite=True)
