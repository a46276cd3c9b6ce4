import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fisher_jax import quality
from fisher_jax.data import PromptCompletion
from fisher_jax.embed import embed, tokenize
from fisher_jax.models.llama import Llama, LlamaConfig
from fisher_jax.models.load import LanguageModel
from fisher_jax.scores import TokenScores, token_scores

WORDS = (
    "to be or not that is the question whether tis nobler yes Yes no in mind # text : user".split()
)
VOCAB = ["[UNK]", "[BOS]", *WORDS]
CONTEXT = 40
QUESTION = "# {text} # is that the question : yes or no"
TEMPLATE = "user : {{ messages[0]['content'] }} {% if add_generation_prompt %}: {% endif %}"
TEXTS = ["to be or not to be", "that", "whether tis nobler in the mind", "in question"]
PAIRS = [
    PromptCompletion("to be or not", "to be that is"),
    PromptCompletion("that is the question", "whether tis nobler in the mind"),
    PromptCompletion("in", "the mind"),
]


def language_model(adds_bos=False, template=None):
    """A Llama of one layer with random weights, and a tokenizer whose tokens are words."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCAB)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["[BOS]", "$A"], special_tokens=[("[BOS]", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.chat_template = template
    config = LlamaConfig(len(VOCAB), 16, 1, 2, 1, 8, 24, CONTEXT)
    graph, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda w: jnp.asarray(rng.normal(0, 0.5, w.shape), w.dtype), state)
    return LanguageModel("tiny", nnx.merge(graph, weights), fast, "", "")


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.fixture(scope="module")
def bos_model():
    return language_model(adds_bos=True)


@nnx.jit
def alone(module, ids_1xT):
    return module(ids_1xT)


def next_token(model, ids):
    """p(. | ids) in float64, one row alone: (len(ids), L)."""
    padded = ids + [0] * (CONTEXT - len(ids))  # on the right, unseen: one compilation
    hidden = np.asarray(alone(model.module, jnp.asarray([padded])), np.float64)[0, : len(ids)]
    return softmax(hidden @ np.asarray(model.module.head, np.float64).T)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def ids_of(text):
    return [VOCAB.index(word) for word in text.split()]


def mean_loss(p, ids, first):
    """Mean NLL of `ids[first:]`, p the distributions after each of `ids`."""
    return np.mean([-np.log(p[t - 1, ids[t]]) for t in range(first, len(ids))])


@pytest.fixture(scope="module")
def problem():
    """Predictions from uniform to sure; every other label is the likeliest one."""
    rng = np.random.default_rng(0)
    head = rng.standard_normal((300, 8)).astype(np.float32)
    tokens = rng.standard_normal((61, 8)).astype(np.float32)
    tokens *= np.linspace(0, 8, 61, dtype=np.float32)[:, None]
    labels = rng.integers(0, 300, 61)
    labels[::2] = np.argmax(tokens @ head.T, axis=1)[::2]
    return head, tokens, labels


def expected_scores(head, tokens, labels):
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    own = np.eye(len(head))[labels]
    others = np.where(np.arange(len(head)) == p.argmax(axis=1)[:, None], 0, p)
    off_top = others.sum(axis=1)
    off_label = np.where(own == 1, 0, p)
    return TokenScores(
        -np.log(np.sum(p * own, axis=1)),
        -np.sum(p * np.log(p), axis=1),
        off_top * (2 - off_top) - np.sum(others**2, axis=1),  # 1 - |p|^2 loses what is small
        np.sum(off_label**2, axis=1) + np.sum(off_label, axis=1) ** 2,
        p.argmax(axis=1),
    )


def test_token_scores_are_those_of_the_full_softmax(problem):
    got, expected = token_scores(*problem, chunk=16), expected_scores(*problem)
    assert expected.fisher_trace_T.min() < 1e-6 < 0.9 < expected.fisher_trace_T.max()
    for name, a, b in zip(TokenScores._fields, got, expected, strict=True):
        assert a.shape == (61,)
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-9, err_msg=name)


def test_the_shortcuts_of_the_reference_are_the_definitions(problem):
    head, tokens, labels = problem
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    expected = expected_scores(*problem)
    np.testing.assert_allclose(expected.fisher_trace_T, 1 - np.sum(p**2, axis=1), atol=1e-12)
    np.testing.assert_allclose(
        expected.gradient_T, np.sum((p - np.eye(len(head))[labels]) ** 2, axis=1), atol=1e-12
    )


def test_chunks_share_one_program_and_change_nothing(problem):
    head, tokens, labels = problem
    whole = token_scores(*problem)
    for n in (1, 61):
        scores._score.clear_cache()
        done = []
        part = token_scores(head, tokens[:n], labels[:n], 7, done.append)
        assert done == [*range(7, n, 7), n]
        for a, b in zip(part, whole, strict=True):
            np.testing.assert_allclose(a, b[:n], rtol=1e-5)
        assert scores._score._cache_size() == 1


def test_no_tokens_have_no_scores(problem):
    head, tokens, labels = problem
    assert [len(a) for a in token_scores(head, tokens[:0], labels[:0])] == [0] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_T": np.full(61, 300)}, "labels must be from 0 to 299"),
        ({"labels_T": np.full(61, -1)}, "labels must be from 0 to 299"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_wrong_tokens_are_refused(problem, change, message):
    head, tokens, labels = problem
    with pytest.raises(ValueError, match=message):
        token_scores(**{"head_LxD": head, "tokens_TxD": tokens, "labels_T": labels} | change)


def test_top_probabilities_are_the_largest_and_bound_what_is_left_out(problem):
    head, tokens, _ = problem
    p = softmax(tokens.astype(np.float64) @ head.T.astype(np.float64))
    values, labels = scores.top_probabilities(head, tokens, k=4, chunk=16)
    np.testing.assert_allclose(values, -np.sort(-p, axis=1)[:, :4], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(p, labels, 1), values, rtol=1e-4, atol=1e-9)
    left_out = np.sum(p**2, axis=1) - np.sum(values**2, axis=1)
    kept = values.sum(axis=1)
    assert (left_out <= kept * (1 - kept) / 4 + 1e-6).all()
    assert left_out.max() > 1e-3
    with pytest.raises(ValueError, match="k must be from 1 to 300"):
        scores.top_probabilities(head, tokens, k=301)


@pytest.mark.parametrize("rows", [TEXTS[:1] + TEXTS[2:], PAIRS])
def test_labels_belong_to_the_embeddings_and_their_losses_to_the_rows(model, rows):
    tokenized = tokenize(model, rows)
    emb = embed([r if isinstance(r, str) else r._asdict() for r in rows], model, normalize="none")
    labels = scores.labels_of(tokenized)
    losses = scores.row_means(
        token_scores(model.module.head, emb.tokens, labels).nll_T, emb.offsets
    )
    for i, row in enumerate(rows):
        prompt, text = ("", row) if isinstance(row, str) else row
        first = max(1, len(ids_of(prompt)))
        ids = ids_of(f"{prompt} {text}")
        assert labels[emb.offsets[i] : emb.offsets[i + 1]].tolist() == ids[first:]
        np.testing.assert_allclose(losses[i], mean_loss(next_token(model, ids), ids, first), 1e-4)


def test_row_means_refuse_offsets_that_do_not_fit():
    np.testing.assert_allclose(
        scores.row_means(np.arange(5, dtype=np.float32), np.array([0, 2, 5])), [0.5, 3]
    )
    for offsets, message in (([0, 2, 4], "from 0 to 5"), ([0, 2, 2, 5], "row 1 has no tokens")):
        with pytest.raises(ValueError, match=message):
            scores.row_means(np.ones(5), np.array(offsets))


def test_el2n_and_gradient_norms_are_those_of_the_heads_gradient(problem):
    head, tokens, labels = problem
    tokens = tokens[:9] + 0.3
    labels = labels[:9]
    offsets = np.array([0, 4, 9])

    def nll(theta_LxD, x_D, y):
        return -jax.nn.log_softmax(theta_LxD @ x_D)[y]

    of_head = [jax.grad(nll)(jnp.asarray(head), x, y) for x, y in zip(tokens, labels, strict=True)]
    of_logits = [
        jax.grad(lambda z, y=y: -jax.nn.log_softmax(z)[y])(jnp.asarray(head @ x))
        for x, y in zip(tokens, labels, strict=True)
    ]
    got = token_scores(head, tokens, labels)
    for values, gradients in (
        (scores.gradient_norms(got, tokens, offsets), of_head),
        (scores.el2n(got, offsets), of_logits),
    ):
        norms = [float(np.linalg.norm(np.asarray(g))) for g in gradients]
        np.testing.assert_allclose(values, [np.mean(norms[:4]), np.mean(norms[4:])], rtol=1e-4)


def test_pooled_states_weight_later_tokens_more():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((m, 3)) for m in (1, 4, 2)]
    tokens, offsets = np.concatenate(rows), np.array([0, 1, 5, 7])
    by_place = [np.average(x, axis=0, weights=np.arange(1, len(x) + 1)) for x in rows]
    np.testing.assert_allclose(scores.pooled_states(tokens, offsets), by_place)
    same = [x.mean(axis=0) for x in rows]
    np.testing.assert_allclose(scores.pooled_states(tokens, offsets, "mean"), same)


@pytest.mark.parametrize("kind", ["plain", "bos", "chat"])
def test_ask_llm_is_the_probability_of_yes_row_by_row(kind):
    model = language_model(kind == "bos", TEMPLATE if kind == "chat" else None)
    seen = []
    got = quality.ask_llm(model, TEXTS, prompt=QUESTION, batch_tokens=60, on_progress=seen.append)
    assert got.dtype == np.float64 and seen[-1] == len(TEXTS)
    yes = [VOCAB.index("yes"), VOCAB.index("Yes")]
    for value, text in zip(got, TEXTS, strict=True):
        question = QUESTION.format(text=text)
        whole = {
            "plain": question,
            "bos": f"[BOS] {question}",
            "chat": f"user : {question} :",
        }[kind]
        np.testing.assert_allclose(value, next_token(model, ids_of(whole))[-1, yes].sum(), 1e-4)
    assert np.ptp(got) > 1e-4


def test_ask_llm_joins_a_pair_and_cuts_the_text_and_not_the_question(model):
    pair = PromptCompletion("to be ", "or not")
    got = quality.ask_llm(model, [pair, "to be or not"], prompt=QUESTION)
    assert got[0] == got[1]
    around = len(QUESTION.split()) - 1
    long = " ".join(["to be or not"] * 20)
    cut = quality.ask_llm(model, [long, "to be or"], prompt=QUESTION, max_length=around + 3)
    assert cut[0] == cut[1] != got[0]
    for max_length in (around, CONTEXT + 1):
        with pytest.raises(ValueError, match=f"from {around + 1}, .* to {CONTEXT}"):
            quality.ask_llm(model, ["to be"], prompt=QUESTION, max_length=max_length)


def test_yes_words_are_those_of_one_token(model):
    assert quality.yes_ids(model).tolist() == [VOCAB.index("yes"), VOCAB.index("Yes")]
    assert quality.yes_ids(model, ["no", "yes no", " no"]).tolist() == [VOCAB.index("no")]
    no = quality.ask_llm(model, ["to be"], ["no"], prompt=QUESTION)
    assert no != quality.ask_llm(model, ["to be"], prompt=QUESTION)
    with pytest.raises(ValueError, match="none of yes_words"):
        quality.ask_llm(model, ["to be"], ["yes no"], prompt=QUESTION)


@pytest.mark.parametrize("prompt", ["is that the question", "{text} or {text}"])
def test_a_question_without_one_text_is_refused(model, prompt):
    with pytest.raises(ValueError, match="text} once, it does"):
        quality.ask_llm(model, ["to be"], prompt=prompt)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_ifd_is_the_ratio_of_mean_losses_row_by_row(adds_bos, model, bos_model):
    model, opening = (bos_model, [1]) if adds_bos else (model, [])
    got = quality.ifd(model, PAIRS, batch_tokens=16)
    for value, (prompt, completion) in zip(got, PAIRS, strict=True):
        head, own = opening + ids_of(prompt), ids_of(completion)
        skipped = 0 if adds_bos else 1  # nothing comes before the first token
        given = mean_loss(next_token(model, head + own), head + own, len(head) + skipped)
        ids = opening + own
        np.testing.assert_allclose(value, given / mean_loss(next_token(model, ids), ids, 1), 1e-4)


def test_ifd_cuts_a_completion_alike_with_and_without_its_prompt(bos_model):
    cut = PromptCompletion(PAIRS[1].prompt, "whether tis")
    got = quality.ifd(bos_model, [PAIRS[1]], max_length=7)  # 5 of the prompt
    np.testing.assert_allclose(got, quality.ifd(bos_model, [cut]), rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty"),
        ([PAIRS[0], "to be"], "row 1 has no prompt"),
        ([PromptCompletion("", "to be")], "row 0 has no prompt"),
        ([PAIRS[0], PromptCompletion("to be", "")], "row 1 has nothing to predict"),
        ([PAIRS[0], PromptCompletion("to be", "or")], "row 1 has nothing to predict"),
    ],
)
def test_ifd_refuses_rows_that_have_none(model, rows, message):
    with pytest.raises(ValueError, match=message):
        quality.ifd(model, rows)


def test_one_token_has_an_ifd_where_something_comes_before_it(bos_model):
    assert quality.ifd(bos_model, [PromptCompletion("to be", "or")]).shape == (1,)


def test_the_prompt_of_the_paper_holds_the_text_between_its_marks():
    assert quality.ASK_LLM_PROMPT.startswith("###\n{text}\n###\n\nDoes the previous paragraph")
    assert quality.ASK_LLM_PROMPT.endswith("content.\n\nOPTIONS:\n- yes\n- no")
    assert "signal for pre-training a large-language model? An" in quality.ASK_LLM_PROMPT
    assert "contain some usable knowledge" in quality.ASK_LLM_PROMPT
