import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from fisher_jax.models.decoder import Llama3Scaling, Rope, RotaryConfig
from fisher_jax.models.embed import TokenizedRows
from fisher_jax.models.families import family_of
from fisher_jax.models.families.gpt2 import GPT2Config
from fisher_jax.models.files import export
from fisher_jax.models.files.export import save_folder
from fisher_jax.models.load import LanguageModel, load_model
from fisher_jax.training.finetune import TrainOptions, finetune
from fisher_jax.util import files
from tests.helpers.small_models import (
    assert_model_error,
    assert_same_parameters,
    gpt2_checkpoint,
    llama_checkpoint,
    word_tokenizer_files,
)

VOCAB, CONTEXT = 97, 64
LLAMA = RotaryConfig(VOCAB, 32, 2, 4, 2, 8, 48, CONTEXT, norm_eps=0.03, ropes=(Rope(50.0),))
GPT2_SIZES = GPT2Config(VOCAB, 32, 2, 4, 48, CONTEXT, norm_eps=0.03)
VARIANTS = {
    "llama": LLAMA,
    "llama untied": LLAMA._replace(tied=False),
    "llama biases": LLAMA._replace(qkv_bias=True, output_bias=True, mlp_bias=True),
    "llama wide heads": LLAMA._replace(head_dim=16, n_kv_heads=1),
    "llama linear": LLAMA._replace(ropes=(Rope(50.0, 4.0),)),
    "llama llama3": LLAMA._replace(
        head_dim=16, ropes=(Rope(50.0, Llama3Scaling(8.0, 1.0, 4.0, 64)),)
    ),
    "gpt2": GPT2_SIZES,
    "gpt2 untied": GPT2_SIZES._replace(tied=False),
}
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer_files(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def model(tokenizer):
    return random_model("llama", tokenizer)


def random_model(variant, tokenizer, dtype=jnp.float32):
    config = VARIANTS[variant]
    family = family_of(config).module
    graph, state = nnx.split(nnx.eval_shape(lambda: family(config, dtype=dtype, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), dtype), state)
    return LanguageModel(variant, nnx.merge(graph, weights), tokenizer, "", "")


def stored(folder):
    with safe_open(folder / "model.safetensors", framework="flax") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def logits(module, ids_BxT):
    hidden_BxTxD = nnx.jit(lambda module, ids: module(ids))(module, jnp.asarray(ids_BxT))
    return np.asarray(hidden_BxTxD, np.float32) @ np.asarray(module.head, np.float32).T


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded_model_is_the_same(tmp_path, tokenizer, variant):
    model = random_model(variant, tokenizer)
    save_folder(model, tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    assert_same_parameters(loaded.module, model.module)
    assert ("lm_head.weight" in stored(tmp_path / "saved")) == ("untied" in variant)
    assert loaded.tokenizer("word other word")["input_ids"] == [1, 0, 1]
    assert {path.name for path in (tmp_path / "saved").iterdir()} >= FILES


@pytest.mark.parametrize("checkpoint", [llama_checkpoint, gpt2_checkpoint])
def test_loaded_and_saved_checkpoint_is_the_same(tmp_path, checkpoint):
    original = checkpoint()
    word_tokenizer_files(original.save(tmp_path / "original"))
    save_folder(load_model(str(tmp_path / "original")), tmp_path / "saved")
    tensors = stored(tmp_path / "saved")
    assert set(tensors) == set(original.weights)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, original.weights[name])
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert fields.items() >= original.config.items()


def test_bfloat16_is_kept(tmp_path, tokenizer):
    model = random_model("gpt2", tokenizer, jnp.bfloat16)
    save_folder(model, tmp_path / "saved")
    assert {str(tensor.dtype) for tensor in stored(tmp_path / "saved").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same_parameters(load_model(str(tmp_path / "saved"), "bfloat16").module, model.module)


@pytest.mark.parity
@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_has_the_same_logits(tmp_path, tokenizer, variant):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = random_model(variant, tokenizer)
    save_folder(model, tmp_path / "saved")
    reference, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert reference.dtype == torch.float32
    ids_BxT = np.random.default_rng(0).integers(VOCAB, size=(2, CONTEXT), dtype=np.int32)
    with torch.no_grad():
        expected = reference.eval()(torch.tensor(ids_BxT).long()).logits.numpy()
    actual = logits(model.module, ids_BxT)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.parity
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_transformers_has_the_logits_of_a_model_with_lora_merged(tmp_path, tokenizer, variant):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = random_model(variant, tokenizer)
    rng = np.random.default_rng(0)
    ids_BxT = rng.integers(VOCAB, size=(2, CONTEXT), dtype=np.int32)
    rows = TokenizedRows.after([*ids_BxT])
    given = TrainOptions("lora", learning_rate=0.05, epochs=5, rank=2, sequence_length=CONTEXT)
    tuned = finetune(model, rows, given).model
    save_folder(tuned, tmp_path / "saved")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        expected = reference(torch.tensor(ids_BxT).long()).logits.numpy()
    actual = logits(tuned.module, ids_BxT)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * expected.std())
    assert np.abs(actual - logits(model.module, ids_BxT)).max() > 0.1 * expected.std()


@pytest.mark.parity
def test_transformers_reads_bfloat16_as_such(tmp_path, tokenizer):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    save_folder(random_model("llama", tokenizer, jnp.bfloat16), tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16


def test_smollm2_keeps_weights_and_tokenizer(tmp_path, smollm2, sentences):
    from transformers import AutoTokenizer

    save_folder(smollm2, tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    assert_same_parameters(loaded.module, smollm2.module)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = sentences[::4000]
    texts += ["", " two  spaces ", "x = 12345;\n\tCafé 東京 🎉", "<|im_start|>user\nHi<|im_end|>"]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    for tokenizer in (loaded.tokenizer, theirs):
        assert tokenizer(texts)["input_ids"] == smollm2.tokenizer(texts)["input_ids"]
        assert tokenizer.chat_template == smollm2.tokenizer.chat_template
        for generation in (True, False):
            rendered = [
                t.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
                for t in (tokenizer, smollm2.tokenizer)
            ]
            assert rendered[0] == rendered[1]
        ids = tokenizer(texts[-2])["input_ids"]
        assert tokenizer.decode(ids) == texts[-2]
        for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id"):
            assert getattr(tokenizer, name) == getattr(smollm2.tokenizer, name)
    assert loaded.tokenizer_sha256 == smollm2.tokenizer_sha256
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((tmp_path / "saved" / name).read_text())
        assert fields["eos_token_id"] == smollm2.tokenizer.eos_token_id


@pytest.mark.parity
def test_transformers_stops_where_the_saved_model_says(tmp_path, smollm2):
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fisher_jax.models.generate import generate

    save_folder(smollm2, tmp_path / "saved")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    chat = [{"role": "user", "content": "What is 1+1? Answer with one number only."}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = reference.generate(**inputs, do_sample=False, max_new_tokens=40)[0]
    assert ids[-1] == smollm2.tokenizer.eos_token_id
    answer = tokenizer.decode(ids[inputs["input_ids"].shape[1] : -1])
    assert generate(smollm2, [prompt], max_new_tokens=40) == [answer]


def test_files_can_be_read_by_others_as_usual(tmp_path, model):
    save_folder(model, tmp_path / "a" / "b")
    mask = int(subprocess.run(["sh", "-c", "umask"], capture_output=True, check=True).stdout, 8)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "a" / "b" / "config.json").stat().st_mode & 0o777 == 0o666 & ~mask
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_a_relative_link_to_an_empty_folder(tmp_path, model, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path)
    save_folder(model, Path("link"))
    assert_same_parameters(load_model("empty").module, model.module)


def test_overwriting_replaces_the_whole_folder(tmp_path, model, tokenizer):
    folder = tmp_path / "saved"
    save_folder(random_model("gpt2", tokenizer), folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    save_folder(model, folder, overwrite=True)
    assert_same_parameters(load_model(str(folder)).module, model.module)
    assert not (folder / "model.safetensors.index.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_loses_no_model(tmp_path, model, tokenizer, monkeypatch, begun):
    folder, move = tmp_path / "saved", files._move_folder
    save_folder(random_model("gpt2", tokenizer), folder)
    before = content(tmp_path)

    def interrupted(*args):
        if begun:
            move(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_move_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_folder(model, folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    if begun:
        assert_same_parameters(load_model(str(folder)).module, model.module)
    else:
        assert content(tmp_path) == before


def test_what_is_in_the_way_stays(tmp_path, model):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = content(tmp_path)
    assert_model_error(lambda: save_folder(model, folder), folder, "not empty", "overwrite")
    assert_model_error(lambda: save_folder(model, folder, overwrite=True), folder, "no model")
    assert_model_error(lambda: save_folder(model, tmp_path / "file"), "is a file")
    assert_model_error(lambda: save_folder(model, tmp_path / "file" / "sub"), "can't be written")
    assert content(tmp_path) == before


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("breaks", ["save_file", "rename"])
def test_a_failure_leaves_everything_as_it_was(tmp_path, model, monkeypatch, overwrite, breaks):
    folder = tmp_path / "saved"
    if overwrite:
        save_folder(model, folder)
    before = content(tmp_path)

    def fail(*args):
        raise OSError("No space left on device")

    if breaks == "save_file":
        monkeypatch.setattr(export, "save_file", fail)
    else:
        monkeypatch.setattr(files, "_move_folder", fail)
    parts = [folder, "No space left on device", "another folder"]
    assert_model_error(lambda: save_folder(model, folder, overwrite=overwrite), *parts)
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["saved"] if overwrite else [])
