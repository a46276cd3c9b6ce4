import numpy as np
import pytest

from fisher_jax.data import Example
from fisher_jax.scoring import quality
from fisher_jax.scoring.endpoint import Endpoint, EndpointError
from tests.helpers.endpoint_server import completion as answered
from tests.helpers.endpoint_server import failure, likely
from tests.helpers.word_model import (
    CONTEXT,
    PAIRS,
    TEXTS,
    VOCAB,
    ids_of,
    language_model,
    mean_loss,
    next_token,
)

QUESTION = "# {text} # is that the question : yes or no"
TEMPLATE = "user : {{ messages[0]['content'] }} {% if add_generation_prompt %}: {% endif %}"


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.fixture(scope="module")
def bos_model():
    return language_model(adds_bos=True)


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
    pair = Example("or not", "to be ")
    got = quality.ask_llm(model, [pair, "to be or not"], prompt=QUESTION)
    assert got[0] == got[1]
    around = len(QUESTION.split()) - 1
    long = " ".join(["to be or not"] * 20)
    cut = quality.ask_llm(model, [long, "to be or"], prompt=QUESTION, max_length=around + 3)
    assert cut[0] == cut[1] != got[0]
    for max_length in (around, CONTEXT + 1):
        with pytest.raises(ValueError, match=f"from {around + 1}, .* to {CONTEXT}"):
            quality.ask_llm(model, ["to be"], prompt=QUESTION, max_length=max_length)


def test_an_endpoint_is_asked_word_for_word_for_its_first_token(serve, tmp_path):
    pairs = [*TEXTS[:2], Example("or not", "to be ")]
    tops = [{"yes": 0.25, " Yes": 0.5, "no": 0.125}, {"No": 0.9}, {"YES": 0.5, "Yes": 0.4}]
    server, seen = serve(lambda n, body: (200, {}, likely(tops[n]))), []
    endpoint = Endpoint("m", tmp_path / "a.jsonl", server.url, settings=quality.ASK_SETTINGS)
    got = quality.ask_llm_endpoint(endpoint, pairs, prompt=QUESTION, on_progress=seen.append)
    np.testing.assert_allclose(got, [0.75, 0, 0.4], rtol=1e-6)
    assert seen == [1, 2, 3]
    asked = [body["messages"][0]["content"] for _, body in server.calls]
    assert asked == [QUESTION.replace("{text}", t) for t in (*TEXTS[:2], "to be or not")]
    assert server.calls[0][1].items() >= quality.ASK_SETTINGS.items()
    again = quality.ask_llm_endpoint(endpoint, pairs, ["No"], prompt=QUESTION)
    np.testing.assert_allclose(again, [0, 0.9, 0], rtol=1e-6)  # from the transcript
    assert len(server.calls) == 3


def test_a_row_without_log_probabilities_is_named_and_asked_again(serve, tmp_path):
    null = answered("yes", choices=[likely({"yes": 0.5})["choices"][0] | {"logprobs": {"content": [{
        "token": "yes", "logprob": -0.1, "bytes": None, "top_logprobs": None}]}}])  # fmt: skip
    replies = [likely({"yes": 0.5}), answered("yes"), null, likely({"yes": 0.25})]
    server = serve(lambda n, body: (200, {}, replies[n]))
    endpoint = Endpoint("m", tmp_path / "a.jsonl", server.url, settings=quality.ASK_SETTINGS)
    for calls in (2, 3):
        with pytest.raises(
            EndpointError, match=r"model m tells no .* row 1, .* kept in .*a\.jsonl"
        ):
            quality.ask_llm_endpoint(endpoint, TEXTS[:2])
        assert len(server.calls) == calls
    np.testing.assert_allclose(quality.ask_llm_endpoint(endpoint, TEXTS[:2]), [0.5, 0.25])
    assert len(server.calls) == 4
    with pytest.raises(ValueError, match="nothing to ask about"):
        quality.ask_llm_endpoint(endpoint, [])
    with pytest.raises(ValueError, match="once, it does 0 times"):
        quality.ask_llm_endpoint(endpoint, TEXTS, prompt="?")


def test_a_refused_question_is_named(serve, tmp_path):
    server = serve(lambda n, body: failure(400, "too long") if n else (200, {}, likely({"a": 1})))
    endpoint = Endpoint("m", tmp_path / "a.jsonl", server.url, settings=quality.ASK_SETTINGS)
    with pytest.raises(EndpointError, match=r"refuses question 1, from 0 \(.*too long"):
        quality.ask_llm_endpoint(endpoint, TEXTS)


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
    for value, pair in zip(got, PAIRS, strict=True):
        head, own = opening + ids_of(pair.prompt), ids_of(pair.completion)
        skipped = 0 if adds_bos else 1  # nothing comes before the first token
        given = mean_loss(next_token(model, head + own), head + own, len(head) + skipped)
        ids = opening + own
        np.testing.assert_allclose(value, given / mean_loss(next_token(model, ids), ids, 1), 1e-4)


def test_ifd_cuts_a_completion_alike_with_and_without_its_prompt(bos_model):
    cut = Example(" whether tis", PAIRS[1].prompt)
    got = quality.ifd(bos_model, [PAIRS[1]], max_length=7)  # 5 of the prompt
    np.testing.assert_allclose(got, quality.ifd(bos_model, [cut]), rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty"),
        ([PAIRS[0], "to be"], "row 1 has no prompt"),
        ([Example("to be", "")], "row 0 has no prompt"),
        ([PAIRS[0], Example("", "to be")], "row 1 has nothing to predict"),
        ([PAIRS[0], Example(" or", "to be")], "row 1 has nothing to predict"),
    ],
)
def test_ifd_refuses_rows_that_have_none(model, rows, message):
    with pytest.raises(ValueError, match=message):
        quality.ifd(model, rows)


def test_one_token_has_an_ifd_where_something_comes_before_it(bos_model):
    assert quality.ifd(bos_model, [Example(" or", "to be")]).shape == (1,)


def test_the_prompt_of_the_paper_holds_the_text_between_its_marks():
    assert quality.ASK_LLM_PROMPT.startswith("###\n{text}\n###\n\nDoes the previous paragraph")
    assert quality.ASK_LLM_PROMPT.endswith("content.\n\nOPTIONS:\n- yes\n- no")
    assert "signal for pre-training a large-language model? An" in quality.ASK_LLM_PROMPT
    assert "contain some usable knowledge" in quality.ASK_LLM_PROMPT
