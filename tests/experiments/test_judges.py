"""The judges in JAX: a model that is asked, and one that only reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.judging.judge import JudgeError, Naming, Pair, judge_pairs, questions_of, tally
from experiments.judging.judges import LikelihoodJudge, LocalJudge, mean_log_likelihoods
from fisher_jax.data import Example
from fisher_jax.models.load import load_model
from tests.helpers.pairs import PAIR, PAIRS
from tests.helpers.word_folder import CONTEXT, save_folder

TEMPLATE = "{% for m in messages %}whether {{ m['content'] }}{% endfor %} nobler"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(save_folder(tmp_path_factory.mktemp("words"), adds_bos=True)))


@pytest.fixture(scope="module")
def digit_model(tmp_path_factory):
    """A small random model whose words include the digits, with room for a judge prompt."""
    folder = save_folder(tmp_path_factory.mktemp("digits"), adds_bos=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))
    serialised = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(
        serialised.replace('"that"', '"1"').replace('"is"', '"2"')
    )
    return load_model(str(folder))


@nnx.jit
def logits_of(module, ids_1xT):
    return module(ids_1xT) @ module.head.T


def full_logits(model, ids, length=128):
    """All logits at every position of the row, which is padded to one length for all rows."""
    ids_1xT = np.zeros((1, length), np.int32)
    ids_1xT[0, : len(ids)] = ids
    return np.asarray(logits_of(model.module, jnp.asarray(ids_1xT)))[0, : len(ids)]


def probability_of_2(model, ids, length=128):
    """P("2") against P("1"), from the softmax over the whole vocabulary."""
    one, two = (model.tokenizer(d, add_special_tokens=False)["input_ids"][0] for d in "12")
    logits_L = full_logits(model, ids, length)[-1].astype(np.float64)
    probability_L = np.exp(logits_L - logits_L.max()) / np.exp(logits_L - logits_L.max()).sum()
    return probability_L[two] / (probability_L[one] + probability_L[two])


@pytest.mark.parametrize("batch_tokens", [1, 4096])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_the_answer_is_the_next_token_after_the_prompt(digit_model, template, batch_tokens):
    digit_model.tokenizer.chat_template = template
    questions, seen = questions_of(PAIRS), []
    answers = LocalJudge(digit_model, batch_tokens).answer(questions, seen.append)
    assert seen[-1] == len(questions)
    for question, answer in zip(questions, answers, strict=True):
        if template:  # which brings its own special tokens, here none
            ids = digit_model.tokenizer(f"whether {question.text} nobler")["input_ids"][1:]
        else:
            ids = digit_model.tokenizer(question.text)["input_ids"]
        expected = probability_of_2(digit_model, ids)
        np.testing.assert_allclose(answer.probability, expected, atol=1e-5)
        assert answer.choice == (2 if expected > 0.5 else 1)
        assert answer.raw == str(answer.choice)
    assert np.ptp([answer.probability for answer in answers]) > 1e-3


def test_without_a_template_a_new_line_follows_the_prompt(smollm2):
    class Plain:
        def __call__(self, *args, **kwargs):
            return smollm2.tokenizer(*args, **kwargs)

    judge = LocalJudge(smollm2._replace(tokenizer=Plain()))
    (ids,) = judge.tokenize(["Respond 1 otherwise."])
    assert smollm2.tokenizer.decode(ids) == "Respond 1 otherwise.\n"


def test_smollm2_is_asked_in_its_chat_format(smollm2):
    questions = questions_of([PAIR])
    answers = LocalJudge(smollm2).answer(questions)
    for question, answer in zip(questions, answers, strict=True):
        chat = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            f"Face<|im_end|>\n<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"
        )
        expected = probability_of_2(smollm2, smollm2.tokenizer(chat)["input_ids"], 144)
        np.testing.assert_allclose(answer.probability, expected, atol=1e-4)
    assert abs(answers[0].probability - answers[1].probability) > 1e-4


def test_a_question_longer_than_the_context_is_named(smollm2):
    judge = LocalJudge(smollm2)
    questions = questions_of([PAIR, Pair("", "word " * 9000, "word")])
    with pytest.raises(JudgeError, match=r"question 2 has 9\d+ tokens, the context of .* is 8192"):
        judge.answer(questions)


def test_a_tokenizer_without_digits_is_refused(model):
    with pytest.raises(JudgeError, match="has no token for '1'"):
        LocalJudge(model).answer(questions_of(PAIRS))


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_likelihood_is_the_mean_over_the_continuations_tokens(model, batch_tokens):
    rows = [Example(text, pair.prompt) for pair in PAIRS for text in pair[1:]]
    rows.append(Example("to be", ""))
    seen = []
    scores = mean_log_likelihoods(model, rows, batch_tokens, seen.append)
    assert seen[-1] == len(rows)
    for row, score in zip(rows, scores, strict=True):
        ids = model.tokenizer(row.prompt + row.completion)["input_ids"]
        n = len(row.completion.split())
        log_TxL = np.asarray(jax.nn.log_softmax(full_logits(model, ids, CONTEXT)))
        expected = np.mean([log_TxL[t - 1, ids[t]] for t in range(len(ids) - n, len(ids))])
        np.testing.assert_allclose(score, expected, atol=1e-5)


def test_likelihood_prefers_shakespeare_to_its_words_in_disorder(smollm2, sentences):
    rng = np.random.default_rng(0)
    pairs = []
    for sentence in sentences[5000:40000:10000]:
        words = sentence.split()
        rest = words[3:]
        shuffled = [rest[i] for i in rng.permutation(len(rest))]
        pairs.append(Pair(" ".join(words[:3]), " " + " ".join(rest), " " + " ".join(shuffled)))
    assert all(pair.a != pair.b for pair in pairs)
    seen = []
    verdicts = judge_pairs(LikelihoodJudge(smollm2), pairs, on_progress=seen.append)
    assert [verdict.winner for verdict in verdicts] == ["a"] * 4
    assert seen[-1] == 8
    got = tally(verdicts)
    assert got.position_1 == 0.5 and got.ties == 0


def test_likelihood_knows_no_names_and_ties_on_equal_texts(model):
    judge = LikelihoodJudge(model, batch_tokens=8)
    pairs = [*PAIRS, PAIRS[0]._replace(b=PAIRS[0].a)]
    verdicts = judge_pairs(judge, pairs)
    assert verdicts[-1].winner == "tie"
    assert all(verdict.winner in "ab" for verdict in verdicts[:3])
    assert verdicts == judge_pairs(judge, pairs, Naming(("x", "y")), "Sherlock Holmes")


def test_an_empty_continuation_loses(model):
    pairs = [Pair("to be", "", " or not"), Pair("to be", "", "")]
    assert [v.winner for v in judge_pairs(LikelihoodJudge(model), pairs)] == ["b", "tie"]


def test_a_text_longer_than_the_context_is_named(model):
    rows = [Example(" be" * n, "to") for n in (3, CONTEXT - 2, CONTEXT - 1)]
    assert np.isfinite(mean_log_likelihoods(model, rows[:2])).all()  # the whole context
    with pytest.raises(JudgeError, match=rf"text 2 \('to'...\) is longer than {CONTEXT} tokens"):
        mean_log_likelihoods(model, rows)


def test_batch_tokens_below_one_is_refused(model, smollm2):
    for judge in (LikelihoodJudge(model, 0), LocalJudge(smollm2, 0)):
        with pytest.raises(ValueError, match="batch_tokens must be at least 1, got 0"):
            judge.answer(questions_of(PAIRS))


def test_no_pairs_are_no_questions(model, smollm2):
    for judge in (LikelihoodJudge(model), LocalJudge(smollm2)):
        assert judge_pairs(judge, []) == []


def test_verdicts_are_plain_values(model):
    verdicts = judge_pairs(LikelihoodJudge(model), PAIRS)
    assert json.loads(json.dumps(verdicts))[0][0] == PAIRS[0].prompt
    assert json.loads(json.dumps(tally(verdicts)._asdict()))["n_pairs"] == 3
