"""Inputs of the suite's programs: pools, models, an earlier output, a run's texts."""

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.numpy import load_file, save_file

from faults.commands import select
from fisher_jax.models import load_model
from fisher_jax.models.files.export import save_folder
from tests.helpers.cli import K, leave_earlier_results, save_llama, write_embeddings, write_rows
from tests.helpers.cli import texts as sentences
from tests.helpers.experiment_options import language_options
from tests.helpers.word_model import save_play_model

COMMAND = ["-m", "fisher_jax.command"]
OUT = "out.jsonl"


def ready(folder: Path) -> Path:
    """Embeddings of a small pool."""
    write_embeddings(folder / "emb.safetensors")
    return folder


def texts(folder: Path) -> Path:
    """A small pool of sentences."""
    write_rows(folder / "pool.jsonl", [{"text": text} for text in sentences()])
    return folder


def earlier_output(folder: Path) -> None:
    """What an earlier run has left there."""
    leave_earlier_results(folder / OUT)


def earlier_set(folder: Path) -> None:
    """The same, where OUT is a folder of the package datasets."""
    done = select(*of_ready(folder, "out"), "--seed", 1, "--selector", "uniform")
    if done.code != 0:
        raise RuntimeError(done.messages)


def of_ready(folder: Path, out: str = OUT) -> list[object]:
    """Arguments of the command for ready embeddings."""
    return ["--embeddings", folder / "emb.safetensors", *_to(folder, out)]


def of_texts(folder: Path, model: Path) -> list[object]:
    """Arguments of the command for sentences and a model."""
    return [folder / "pool.jsonl", "--model", model, *_to(folder)]


def embedding(folder: Path, model: Path) -> list[object]:
    """Arguments of the command that fills a cache, a shard for each length of a row."""
    program = (
        "import sys; from fisher_jax.pipeline import embedding; embedding.SHARD_BYTES = 200;"
        "from fisher_jax.command.start import start; start()"
    )
    return ["-c", program, "embed", *of_pool(folder, model), "--batch-tokens", 8]


def of_pool(folder: Path, model: Path) -> list[object]:
    """Arguments of both halves of the command, with a cache."""
    return [folder / "pool.jsonl", "--model", model, "--cache", folder / "states"]


def _to(folder: Path, out: str = OUT) -> list[object]:
    return ["-o", folder / out, "--n-samples", K, "--overwrite"]


def model(work: Path) -> Path:
    """A Llama of one layer."""
    folder = work / "model"
    folder.mkdir()
    return save_llama(folder)


def play_model(work: Path) -> Path:
    """A Llama of one layer that reads Shakespeare."""
    return save_play_model(work / "play_model")


def experiment(folder: Path) -> list[object]:
    """Arguments of a small synthetic experiment."""
    options = {
        "n_examples": 40, "dim": 3, "n_labels": 4, "budgets": "[4]", "replicates": 2,
        "selectors": "[uniform,longest]", "grid": "{seed:[0,1,2]}", "hydra.run.dir": folder,
    }  # fmt: skip
    return ["-m", "experiments.synthetic", *(f"{k}={v}" for k, v in options.items())]


def language(folder: Path, model_folder: Path) -> list[object]:
    """Arguments of a small language experiment."""
    options = {
        "experiment": "smoke", "model": model_folder, "selectors": "[uniform,fisher]",
        "replicates": 1, "hydra.run.dir": folder,
    }  # fmt: skip
    return ["-m", "experiments.language", *(f"{k}={v}" for k, v in options.items())]


def earlier_model(folder: Path) -> None:
    """Two models, the second also where the first is to be exported."""
    save_folder(load_model(str(model(folder))), folder / "exported")
    weights = load_file(folder / "exported" / "model.safetensors")
    weights = {name: 2 * array for name, array in weights.items()}
    save_file(weights, folder / "exported" / "model.safetensors", {"format": "pt"})


def export(folder: Path) -> list[object]:
    """Arguments of an export over an earlier one."""
    return ["-m", "faults.exporting", folder / "model", folder / "exported"]


def training(folder: Path) -> list[object]:
    """Arguments of a small fine-tuning with checkpoints."""
    return ["-m", "faults.training", folder]


def written(folder: Path, model_folder: Path) -> None:
    """A language run with texts of two selectors."""
    given = language_options(model_folder, selectors=["uniform", "fisher"], replicates=1)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(given))))
    at = {"setting": {}, "replicate": 0, "equal": "tokens"}
    rows = [
        {**at, "selector": name, "n": n, "texts": [f" {name} {n}" * (1 + n), " the same"]}
        for n in (4, 8)
        for name in ("uniform", "fisher")
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def judging(folder: Path, url: str) -> list[object]:
    """Arguments of judging by an endpoint."""
    asked = ["--judges", "endpoint", "--base-url", url, "--judge-model", "m"]
    return ["-m", "experiments.judging", folder, *asked]
