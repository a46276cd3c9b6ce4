"""TRL's trainer takes what is written as it is, and learns the tokens that were counted."""

import json

import numpy as np
import pytest

from fisher_jax.data.output import write_selection
from fisher_jax.pipeline import Clock, Request, prepare
from tests.helpers.cli import save_llama, texts

pytestmark = pytest.mark.parity
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + ' z ' }}{% endgeneration %}{% else %}{{ m['content'] + ' y ' }}{% endif %}"
    "{% endfor %}"
)
SPOKEN = [*zip(texts(1), [text[: 1 + 2 * (i % 4)] for i, text in enumerate(texts(2))], strict=True)]
ROWS = {
    "prompt-completion": [{"prompt": ask, "completion": f" {say}"} for ask, say in SPOKEN],
    "messages": [
        {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]}
        for ask, say in SPOKEN
    ],
}
RANKING = np.array([6, 1, 3, 4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random Llama, whose rows end in z, with a template that marks what is learnt."""
    from transformers import AutoTokenizer

    folder = save_llama(tmp_path_factory.mktemp("llama"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template = "z", "<unk>", TEMPLATE
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    named = {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config | named))
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("shape", ROWS)
def test_chosen_rows_are_trained_on(shape, suffix, folder, tmp_path):
    trl = pytest.importorskip("trl", reason="needs: pip install -e '.[parity]'")
    from datasets import load_dataset

    out, kind = tmp_path / f"chosen{suffix}", {".jsonl": "json"}.get(suffix, "parquet")
    request = Request(pool=ROWS[shape], model=folder, n_samples=len(RANKING))
    prepared = prepare(request, Clock(None))
    write_selection(out, out, prepared.file, RANKING, np.ones(len(RANKING)))
    chosen = load_dataset(
        kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "sets")
    )
    options = trl.SFTConfig(
        str(tmp_path / "run"),
        assistant_only_loss=shape == "messages",
        max_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(str(folder), train_dataset=chosen, args=options)
    learnt = [sum(i >= 0 for i in row["labels"]) for row in labelled(trainer)]
    assert learnt == prepared.costs[RANKING].tolist()
    before = trainer.model.lm_head.weight.detach().clone()
    assert np.isfinite(trainer.train().training_loss) and trainer.state.global_step == 2
    assert not before.equal(trainer.model.lm_head.weight)


def labelled(trainer):
    """Each row of a trainer as it is trained on."""
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        yield {"labels": batch["labels"][0].tolist()}
