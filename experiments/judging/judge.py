"""Pairs of generated texts, what a judge is asked about them, and how its answers are counted."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import stats

from fisher_jax.util.errors import UserError
from fisher_jax.util.progress import OnProgress

Winner = Literal["a", "b", "tie", "unparsable"]

_TAG = re.compile(r"[A-Za-z][\w.-]*")
_NUMBER = re.compile(r"(?<![\w.])[0-9]+(?:\.[0-9]+)?(?!\w)")


class JudgeError(UserError):
    """A judge that can't be asked or whose records can't be used; says what, where and remedy."""


class Pair(NamedTuple):
    """Two continuations of a prompt, by method A and by method B.

    A continuation is what follows the prompt to the letter, white space at its beginning included.
    """

    prompt: str
    a: str
    b: str


class Naming(NamedTuple):
    """Tags around the two texts: by position the first and the second shown, else A's and B's."""

    tags: tuple[str, str]
    by_position: bool = False

    def swapped(self) -> "Naming":
        """Each text under the other's tag."""
        return self._replace(tags=(self.tags[1], self.tags[0]))


NEUTRAL = Naming(("tag1", "tag2"), by_position=True)
LETTERS = Naming(("methodA", "methodB"))


class Question(NamedTuple):
    """A pair in one order: the judge's exact prompt, and what the text was made of."""

    text: str
    prompt: str
    continuations: tuple[str, str]


class Answer(NamedTuple):
    """What a judge said.

    Attributes:
        raw: its own words.
        choice: 1 or 2, the text it prefers; None where the words don't say.
        probability: of 2 against 1, from judges that have one.
    """

    raw: str
    choice: int | None
    probability: float | None = None


@runtime_checkable
class Judge(Protocol):
    """Whoever compares two texts."""

    def answer(
        self, questions: Sequence[Question], on_progress: OnProgress | None = None
    ) -> list[Answer]:
        """An answer to each question; `on_progress` is called with the number answered."""
        ...


class Verdict(NamedTuple):
    """A pair judged in both orders."""

    prompt: str
    a_first: Answer
    b_first: Answer

    @property
    def winner(self) -> Winner:
        """Whom both orders prefer; "tie" where they disagree."""
        choices = self.a_first.choice, self.b_first.choice
        if None in choices:
            return "unparsable"
        return {(1, 2): "a", (2, 1): "b"}.get(choices, "tie")  # pyright: ignore

    @property
    def probability_a(self) -> float | None:
        """Mean over the orders of the probability that A's text is preferred."""
        p, q = self.a_first.probability, self.b_first.probability
        return None if p is None or q is None else (1 - p + q) / 2


class Rate(NamedTuple):
    """A mean or share with its 95% interval; NaN where there is nothing to tell it from."""

    value: float
    low: float
    high: float


class Tally(NamedTuple):
    """Method A against method B.

    Attributes:
        n_pairs: judged, which the next four numbers add up to.
        wins_a: both orders prefer A.
        wins_b: both orders prefer B.
        ties: the two orders disagree.
        unparsable: an answer of the two can't be read.
        n_prompts: different prompts, the clusters of the bootstrap.
        win_rate: wins_a / (wins_a + wins_b), with Wilson's interval (pairs independent).
        win_rate_clustered: the same share, its interval by a bootstrap over prompts.
        half_ties: (wins_a + ties / 2) / (wins_a + wins_b + ties), by the same bootstrap: what
            judging every pair once in random order estimates.
        position_1: share of readable answers that prefer the text shown first; 0.5 is no bias.
        probability_a: mean of the verdicts' `probability_a`, by the same bootstrap; None for
            judges without probabilities.
    """

    n_pairs: int
    wins_a: int
    wins_b: int
    ties: int
    unparsable: int
    n_prompts: int
    win_rate: Rate
    win_rate_clustered: Rate
    half_ties: Rate
    position_1: float
    probability_a: Rate | None


def namings(a: str, b: str) -> dict[str, Naming]:
    """The ablation of names: neutral tags, letters, the methods' own names, and these swapped."""
    own = Naming((a, b))
    return {"neutral": NEUTRAL, "letters": LETTERS, "names": own, "swapped": own.swapped()}


def judge_prompt(
    texts: tuple[str, str],
    tags: tuple[str, str] = NEUTRAL.tags,
    corpus: str = "Shakespeare",
) -> str:
    """The paper's prompt after review (arXiv 2505.14826), for two texts in the order shown.

    Raises:
        ValueError: tags that are alike or no tags, or a text that holds a closing tag.
    """
    if tags[0] == tags[1]:
        raise UserError(f"tags must differ, got {tags[0]!r} twice: name the methods apart")
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise UserError(
                f"tags must be a letter and then letters, digits, '_', '.' or '-', got {tag!r}"
            )
        if any(f"</{tag}>" in text for text in texts):
            raise UserError(f"a text to judge holds </{tag}>: choose other tags")
    (tag1, tag2), (text1, text2) = tags, texts
    return (
        f"You are a judge of {corpus} text.\n"
        f"<{tag1}>{text1}</{tag1}>\n"
        f"<{tag2}>{text2}</{tag2}>\n"
        f"Respond 2 if the text inside <{tag2}> is more fluent {corpus} text than the text inside "
        f"<{tag1}>. Respond 1 otherwise."
    )


def questions_of(
    pairs: Sequence[Pair], naming: Naming = NEUTRAL, corpus: str = "Shakespeare"
) -> list[Question]:
    """Two questions a pair, A's text first and then B's; a text is prompt + continuation.

    Raises:
        ValueError: see `judge_prompt`; the pair is named by its index.
    """
    questions = []
    for i, pair in enumerate(pairs):
        b_first = naming if naming.by_position else naming.swapped()
        for shown, tags in (((pair.a, pair.b), naming.tags), ((pair.b, pair.a), b_first.tags)):
            try:
                text = judge_prompt((pair.prompt + shown[0], pair.prompt + shown[1]), tags, corpus)
            except ValueError as error:
                raise UserError(f"pair {i}: {error}") from None
            questions.append(Question(text, pair.prompt, shown))
    return questions


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    naming: Naming = NEUTRAL,
    corpus: str = "Shakespeare",
    on_progress: OnProgress | None = None,
) -> list[Verdict]:
    """Every pair judged in both orders.

    Args:
        judge: a back end, see `experiments.judging.judges`.
        pairs: texts of method A and method B.
        naming: the tags around the texts; by default they tell nothing of the methods.
        corpus: what the judge is a judge of, "Shakespeare" or "Sherlock" in the paper.
        on_progress: called with the number of questions answered, of two a pair.

    Raises:
        ValueError: pairs that can't be asked about, or a judge that can't be asked.
    """
    answers = judge.answer(questions_of(pairs, naming, corpus), on_progress)
    return [
        Verdict(pair.prompt, *two)
        for pair, two in zip(pairs, zip(answers[::2], answers[1::2], strict=True), strict=True)
    ]


def parse_answer(raw: str) -> int | None:
    """1 or 2 if that is the only number that stands alone in the answer, else None.

    "2", " 2." and "Answer: 2" are 2, and so is "<tag2> is better, so 2"; "Both", "12", "1 or 2",
    "1.5" and "" are none. What a model thinks first, up to `</think>`, is not its answer; where it
    hasn't come to an end of that, there is none.
    """
    _, ended, answer = raw.rpartition("</think>")
    if not ended and "<think>" in raw:
        return None
    numbers = set(_NUMBER.findall(answer))
    return int(numbers.pop()) if numbers in ({"1"}, {"2"}) else None


def winners(verdicts: Sequence[Verdict]) -> dict[int, Winner]:
    """Winner by index of the pair, unparsable ones left out."""
    found: list[Winner] = [verdict.winner for verdict in verdicts]
    return {i: winner for i, winner in enumerate(found) if winner != "unparsable"}


def tally(verdicts: Sequence[Verdict], *, seed: int = 0, n_resamples: int = 2000) -> Tally:
    """Count verdicts; the bootstrap draws prompts with replacement, all pairs of a prompt at once.

    Intervals of the bootstrap are percentiles; they have no width where all verdicts are alike,
    as Wilson's still has.

    Raises:
        ValueError: no verdicts, or n_resamples below 1.
    """
    if not verdicts or n_resamples < 1:
        raise UserError(
            f"a tally needs verdicts and at least one resample, got {len(verdicts)} verdicts and "
            f"n_resamples = {n_resamples}"
        )
    found = [verdict.winner for verdict in verdicts]
    a, b, ties = (np.array([w == kind for w in found], float) for kind in ("a", "b", "tie"))
    number = {prompt: c for c, prompt in enumerate(dict.fromkeys(v.prompt for v in verdicts))}
    clusters, n_prompts = [number[verdict.prompt] for verdict in verdicts], len(number)
    rng = np.random.default_rng(seed)
    counts_RxC = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), n_resamples)

    def share(of_pair: Float[np.ndarray, "N"], weight: Float[np.ndarray, "N"]) -> Rate:
        """`sum of_pair / sum weight` over the prompts drawn."""
        sums = [np.bincount(clusters, x, n_prompts) for x in (of_pair, weight)]
        if n_prompts < 2 or not weight.any():
            low = high = float("nan")
        else:
            top, bottom = (counts_RxC @ x for x in sums)
            low, high = np.quantile(top[bottom > 0] / bottom[bottom > 0], [0.025, 0.975])
        value = of_pair.sum() / weight.sum() if weight.any() else float("nan")
        return Rate(float(value), float(low), float(high))

    clustered = share(a, a + b)
    wilson = Rate(*[float("nan")] * 3)
    wins, decided = int(a.sum()), int((a + b).sum())
    if decided:
        low, high = stats.binomtest(wins, decided).proportion_ci(0.95, method="wilson")
        wilson = Rate(wins / decided, float(low), float(high))
    choices = [answer.choice for verdict in verdicts for answer in verdict[1:]]
    readable = [choice for choice in choices if choice is not None]
    probabilities = [verdict.probability_a for verdict in verdicts]
    probability = None
    if None not in probabilities:
        probability = share(np.asarray(probabilities, float), np.ones(len(verdicts)))
    return Tally(
        n_pairs=len(verdicts),
        wins_a=wins,
        wins_b=int(b.sum()),
        ties=int(ties.sum()),
        unparsable=found.count("unparsable"),
        n_prompts=n_prompts,
        win_rate=wilson,
        win_rate_clustered=clustered,
        half_ties=share(a + ties / 2, a + b + ties),
        position_1=readable.count(1) / len(readable) if readable else float("nan"),
        probability_a=probability,
    )
