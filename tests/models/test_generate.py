"""Texts continued by a model: greedy decoding, where it ends, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from fisher_jax.models import generate as module_under_test
from fisher_jax.models.generate import (
    Sampling,
    continuation_text,
    draw_token,
    generate,
    generate_ids,
)
from tests.helpers.generation import (
    CONTEXT,
    NEW,
    VOCAB,
    as_lists,
    greedy,
    next_logits,
    random_model,
    random_prompts,
)


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    return random_model(request.param)


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


def step_by_step(model, prompt, n_tokens):
    """Greedy decoding without memory."""
    ids = list(prompt)
    for _ in range(n_tokens):
        ids.append(int(next_logits(model, ids).argmax()))
    return ids[len(prompt) :]


@pytest.mark.usefixtures("no_rank_promotion")
def test_greedy_equals_the_whole_forward_pass_at_each_step(model):
    prompts = random_prompts()
    expected = [step_by_step(model, prompt, NEW) for prompt in prompts]
    assert len({tuple(row) for row in expected}) == len(prompts)  # and no two are alike
    assert greedy(model, prompts, batch_size=4) == expected  # the second batch lacks a row


def test_the_whole_context_can_be_filled():
    model = random_model("gpt2")
    prompt = random_prompts([CONTEXT - NEW])[0]
    assert greedy(model, [prompt]) == [step_by_step(model, prompt, NEW)]


def test_bfloat16_logits_are_float32(monkeypatch):
    model = random_model("llama", jnp.bfloat16)
    dtypes = []

    def spy(key, logits_L, sampling):
        dtypes.append(logits_L.dtype)
        return draw_token(key, logits_L, sampling)

    monkeypatch.setattr(module_under_test, "draw_token", spy)
    ids = generate_ids(model, random_prompts([3]), max_new_tokens=3, temperature=0.5)
    assert len(ids[0]) == 3 and set(dtypes) == {jnp.dtype("float32")}


def test_a_row_ends_at_eos(llama):
    prompts = random_prompts()
    whole = greedy(llama, prompts)
    eos = whole[0][4]
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in whole]
    assert len(expected[0]) <= 5 < len(max(expected, key=len))  # one row ends, another goes on
    assert greedy(llama, prompts, eos=eos) == expected


def test_decoding_stops_when_all_rows_have_ended(llama):
    done = []
    prompts = random_prompts([3]) * 2
    eos = greedy(llama, prompts)[0][0]
    ids = generate_ids(llama, prompts, max_new_tokens=60, eos=eos, on_progress=done.append)
    assert as_lists(ids) == [[eos]] * 2
    assert done == [120]  # one report, although 60 tokens would take two


@pytest.mark.parametrize(("new", "expected"), [(1, [2, 4]), (40, [64, 80, 144, 160])])
def test_progress_counts_tokens_and_changes_none(llama, new, expected):
    prompts, done = random_prompts([3, 5, 2, 4]), []
    options = {"max_new_tokens": new, "batch_size": 3, "temperature": 1.0}
    ids = generate_ids(llama, prompts, on_progress=done.append, **options)
    assert done == expected
    assert as_lists(ids) == as_lists(generate_ids(llama, prompts, **options))


def test_rows_decoded_together_are_the_devices(llama, device, device_memory):
    prompts, done = random_prompts([3, 5, 2, 4]), []

    def batches(**options):
        done.clear()
        generate_ids(llama, prompts, max_new_tokens=1, on_progress=done.append, **options)
        return len(done)

    device(decoded_rows=2)
    assert [batches(), batches(batch_size=4)] == [2, 1]
    device_memory(8 * 1.5 * module_under_test._row_bytes(llama, 16, 16))
    assert [batches(), batches(batch_size=4)] == [4, 4]


def test_one_compilation_for_one_shape(llama):
    prompts = random_prompts([3, 9, 14, 16])
    generate_ids(llama, prompts[:2], max_new_tokens=7)
    sizes = [f._cache_size() for f in (module_under_test._read, module_under_test._decode)]
    for new in (5, 12, 16):  # all have the same room
        generate_ids(random_model("llama"), prompts[2:], max_new_tokens=new)
        generate_ids(llama, prompts, max_new_tokens=new, batch_size=2, eos=3)
    assert sizes == [f._cache_size() for f in (module_under_test._read, module_under_test._decode)]


def test_decoding_lowers_in_full_precision_on_all_platforms(model):
    graph, weights = nnx.split(model)
    batch = module_under_test._as_batch(random_prompts(), list(range(7)), 7, 0, CONTEXT)
    sampling = Sampling(0.7, 9, 0.8)

    def run(weights, batch):
        decoding = module_under_test._read(graph, weights, batch, -1, sampling, 16)
        return module_under_test._decode(graph, weights, batch, -1, sampling, decoding, 9)

    platforms = ["cpu", "cuda", "tpu"]
    exported = jax.export.export(jax.jit(run), platforms=platforms)(weights, batch)
    lines = exported.mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert len(products) >= 10
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_smollm2_continues_sentences(smollm2):
    prompts = ["To be, or not to", "The capital of France is"]
    first, second = generate(smollm2, prompts, max_new_tokens=4)
    assert first.startswith(" be")
    assert second.startswith(" Paris")


def test_smollm2_ends_its_answer(smollm2):
    chat = [{"role": "user", "content": "What is 1+1? Answer with one number only."}]
    prompt = smollm2.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert smollm2.tokenizer.eos_token == "<|im_end|>"
    (answer,) = generate(smollm2, [prompt], max_new_tokens=40)
    assert 0 < len(answer) < 60 and "<|" not in answer
    (beyond,) = generate(smollm2, [prompt], max_new_tokens=40, stop_at_eos=False)
    assert beyond.startswith(answer) and len(beyond) > len(answer) and "<|" not in beyond


def test_continuations_of_many_bytes_a_character(smollm2):
    text = "Tōkyō 東京 is naïve 🎉🎊 fun"
    ids = smollm2.tokenizer(text)["input_ids"]
    assert len(ids) > len(text.split()) + 8  # characters of several tokens
    cuts = [i for i in range(1, len(ids)) if "\ufffd" not in smollm2.tokenizer.decode(ids[:i])]
    assert len(cuts) > 5
    for cut in cuts:
        known = smollm2.tokenizer.decode(ids[:cut])
        assert known + continuation_text(smollm2.tokenizer, ids[:cut], ids[cut:]) == text


def test_continuations_keep_the_space_that_a_decoder_strips():
    from transformers import PreTrainedTokenizerFast

    words = {w: i for i, w in enumerate(["<unk>", "<s>", "▁to", "▁be", "▁or"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    assert fast.decode([3, 4]) == "be or"
    assert continuation_text(fast, [1, 2], [3, 4, 1]) == " be or"


@pytest.mark.parity
def test_greedy_decoding_matches_pytorch(smollm2, sentences):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")  # transformers reads a GGUF through it
    from transformers import AutoModelForCausalLM

    from fisher_jax.models.load import _smollm2_file

    new, n_prompts = 24, 50
    texts = [sentence.split() for sentence in sentences[::400]]
    prompts = [" ".join(words[:6]) for words in texts if len(words) > 6][:n_prompts]
    ids = smollm2.tokenizer(prompts)["input_ids"]
    eos = smollm2.tokenizer.eos_token_id
    ours = generate_ids(smollm2.module, ids, max_new_tokens=new, eos=eos, batch_size=n_prompts)

    path = _smollm2_file()
    reference = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    length = max(map(len, ids))
    mask_BxT = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids])
    ids_BxT = torch.tensor([[0] * (length - len(row)) + row for row in ids])
    with torch.no_grad():
        theirs = reference.generate(
            input_ids=ids_BxT,
            attention_mask=mask_BxT,
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=eos,
            pad_token_id=eos,
            return_dict_in_generate=True,
            output_logits=True,
        )
    best = torch.stack(theirs.logits, 1).topk(2).values.numpy()
    tokens = theirs.sequences[:, length:].numpy()
    compared = 0
    for row, expected, top in zip(ours, tokens, best, strict=True):
        close = np.flatnonzero(top[:, 0] - top[:, 1] < 1e-3)
        ends = np.flatnonzero(expected == eos)
        n = min([len(expected), *close[:1], *(ends[:1] + 1)])
        np.testing.assert_array_equal(row[:n], expected[:n])
        assert len(row) == n or len(close)
        compared += n
    assert compared > 0.8 * n_prompts * new


def test_no_prompts(llama):
    assert generate_ids(llama, [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"max_new_tokens": 0}, ["max_new_tokens", "at least 1", "0"]),
        ({"temperature": -0.5}, ["temperature", "-0.5"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"top_k": 0}, ["top_k", "at least 1", "0"]),
        ({"top_p": 0.0}, ["top_p", "above 0", "0.0"]),
        ({"top_p": 1.5}, ["top_p", "at most 1", "1.5"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 2**32}, ["seed", "4294967296"]),
        ({"batch_size": 0}, ["batch_size", "at least 1", "0"]),
        ({"prompts": [[1], []]}, ["prompts[1]", "no tokens"]),
        ({"prompts": [[1] * 60], "max_new_tokens": 5}, ["prompts[0]", "60", "5", "64", "shorten"]),
        ({"prompts": [[1], [3, VOCAB]]}, ["prompts[1]", "96", "tokenizer"]),
        ({"prompts": [[-1]]}, ["prompts[0]", "96"]),
    ],
)
def test_wrong_arguments_are_named(llama, options, parts):
    with pytest.raises(ValueError) as caught:
        generate_ids(llama, **{"prompts": [[1]], "max_new_tokens": 3, **options})
    for part in parts:
        assert part in str(caught.value)


def test_a_prompt_that_just_fits(llama):
    assert len(generate_ids(llama, [[1] * 60], max_new_tokens=4)[0]) == 4


def test_wrong_prompts_are_named(smollm2):
    with pytest.raises(ValueError, match=r"prompts\[1\] has no tokens"):
        generate(smollm2, ["a", ""], max_new_tokens=2)
    assert generate(smollm2, [], max_new_tokens=2) == []
