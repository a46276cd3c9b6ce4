"""What is asked for: a frozen request, whose contradictions are told before anything is read."""

import dataclasses
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from fisher_jax.selectors import SELECTORS, Rule
from fisher_jax.util.checks import (
    LEAST_RIDGE,
    check_numbers,
    check_one_budget,
    check_ridge,
    check_seed,
)
from fisher_jax.util.errors import UserError

if TYPE_CHECKING:
    from fisher_jax.design import TokenEmbeddings
    from fisher_jax.models import LanguageModel

# a file's path or a data set's name, a tuple of them, or the rows
Rows = str | os.PathLike[str] | tuple[str, ...] | Iterable[str | Mapping[str, Any]]
OFFERED = [rule for rule in SELECTORS.values() if not rule.planted]
SOURCES = (
    *("pool", "embeddings", "targets", "target_embeddings", "initial", "initial_embeddings"),
    "exclude",
)
OF_MODEL = (
    *("max_length", "positions", "on_empty", "batch_tokens", "cache", "cache_dtype", "dtype"),
    "eos",
)
_COLUMNS = ("format", "text_column", "messages_column", "prompt_column", "completion_column")
_READY = {"targets": "target_embeddings", "initial": "initial_embeddings"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which rows of a pool to choose, and how.

    Names of options stand in backticks in messages; a command writes them as its own.

    Attributes:
        pool: what `fisher_jax.data.pool_file.read_pool` takes: a file, pattern, folder, address,
            data set's name, "-", or a tuple of several; or rows: a list of strings, or of mappings,
            or a `datasets.Dataset`. It may be left out with `embeddings`.
        model: embeds the rows: a name or path as `load_model` takes it, or a loaded model.
        embeddings: ready ones instead of a model: a safetensors file with `tokens` (T, D) and
            `offsets` (N + 1,), or `TokenEmbeddings`.
        n_samples: budget in rows; of the three budgets exactly one is set.
        fraction: budget as a share of the rows, `floor(F N + 0.5)` of them.
        token_budget: budget in tokens to learn, never exceeded.
        cost_column: column of the pool with what each row costs; `token_budget` is then in its
            unit.
        group_by: column of the pool, such as its source; of each of its values no more than
            `group_cap` is chosen.
        group_cap: in the budget's unit, for every group; or by group, where others have no cap; or
            "equal" or "proportional" shares of the budget.
        quality: column of the pool with numbers of at least 0: what is maximised is
            `f(S) + quality_weight sum of quality`, in nats.
        quality_weight: nats that a unit of quality is worth.
        selector: a name in `SELECTORS`; None is FisherSFT, by gain with a budget in rows and by
            gain per token with one in tokens.
        compare: names of other rules; each chooses too, for the same budget, and the report shows
            them side by side.
        targets: rows like those that the tuned model will meet, as `pool`.
        target_embeddings: the same where `embeddings` are given: such a file, or such embeddings.
        initial: rows that are owned already, as `pool`: V has them before the first choice, and
            f counts what is added to them. They cost nothing and are not written.
        initial_embeddings: the same where `embeddings` are given.
        exclude: rows of another set, as `pool`; copies of them are left out first, `exact` ones
            unless `deduplicate` says `near`.
        format: shape of the rows of all these, a name in `data.shapes.FORMATS`; None goes by the
            columns that are there.
        text_column: of them, with the text, or with messages.
        messages_column: with messages.
        prompt_column: with prompts; goes with `completion_column`.
        completion_column: with what completes them.
        split: of a data set of the package datasets, such as train.
        subset: of a data set on the hub, its configuration.
        skip_bad: leave out rows that can't be used, of the pool also those without a `quality`,
            cost or group, and list them.
        max_length: tokens of a row, longer ones are cut; None is the model's context.
        on_empty: what becomes of rows with nothing to predict.
        deduplicate: leave out copies of an earlier row first: by the text, or "means", with
            `embeddings`, by the rows' mean embeddings (`data.duplicates.deduplicate_means`).
        cache: folder that keeps each row's embeddings and scores, so that none is embedded twice
            and a killed run goes on; True for the user's own, which changes no byte of a result.
        cache_dtype: of the embeddings in a `cache` folder, which are selected by as they are there.
        batch_tokens: of a forward pass; None is what suits the device.
        dtype: of a model given by name.
        positions: the tokens to select by: of rows with a prompt those that predict the completion
            (of chats the assistant's turns), all, or those of the prompt.
        eos: whether a row's end is learnt: None adds it to completions, True to texts too, False
            to none; what closes a chat's turns is of its template, and is learnt either way.
        endpoint: base URL of an OpenAI-compatible endpoint that `ask_llm` asks.
        endpoint_model: the model there.
        answers: file that keeps the endpoint's answers, so that none is paid for twice.
        ridge: V = R I before the first choice.
        normalize: divide embeddings by their root mean squared norm, or each by its own.
        center: subtract the pool's mean embedding.
        devices: over which the pool of a selection by FisherSFT is divided, for one that is larger
            than one device or takes long; the ranking is that of one.
        project_dim: select by a random projection of the embeddings to so many dimensions, see
            `fisher_jax.design.projection`; gains are those of what it projects to.
        certify: tell which share of the best f the selection has at least, see
            `fisher_jax.certify`.
        seed: of selectors that draw, of the report's uniform draws and of the projection.

    Raises:
        UserError: options that contradict each other, or one out of range.
    """

    pool: Rows | None = None
    model: "str | os.PathLike[str] | LanguageModel | None" = None
    embeddings: "str | os.PathLike[str] | TokenEmbeddings | None" = None
    n_samples: int | None = None
    fraction: float | int | None = None
    token_budget: float | int | None = None
    cost_column: str | None = None
    group_by: str | None = None
    group_cap: float | int | str | Mapping[Any, float | int] | None = None
    quality: str | None = None
    quality_weight: float | int = 1.0
    selector: str | None = None
    compare: Sequence[str] = ()
    targets: Rows | None = None
    target_embeddings: "str | os.PathLike[str] | TokenEmbeddings | None" = None
    initial: Rows | None = None
    initial_embeddings: "str | os.PathLike[str] | TokenEmbeddings | None" = None
    exclude: Rows | None = None
    format: str | None = None
    text_column: str | None = None
    messages_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    split: str | None = None
    subset: str | None = None
    skip_bad: bool = False
    max_length: int | None = None
    on_empty: Literal["error", "skip"] = "error"
    deduplicate: Literal["none", "exact", "near", "means"] = "none"
    batch_tokens: int | None = None
    cache: str | os.PathLike[str] | bool | None = None
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    dtype: Literal["float32", "bfloat16"] = "float32"
    positions: Literal["completion", "all", "prompt"] = "completion"
    eos: bool | None = None
    endpoint: str | None = None
    endpoint_model: str | None = None
    answers: str | os.PathLike[str] | None = None
    ridge: float | int = 1.0
    normalize: Literal["rms", "unit", "none"] = "rms"
    center: bool = False
    project_dim: int | None = None
    devices: int = 1
    certify: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_choices()
        self._check_source()
        self._check_selector()
        self._check_columns()

    def _check_numbers(self) -> None:
        names = ("n_samples", "fraction", "token_budget")
        check_one_budget(**{f"`{name}`": getattr(self, name) for name in names})
        check_ridge(self.ridge, "`ridge`")
        if self.ridge < LEAST_RIDGE and self.normalize != "none":
            raise UserError(f"`ridge` must be at least {LEAST_RIDGE:g}, got {self.ridge}")
        for name in ("batch_tokens", "project_dim", "devices"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        check_seed(self.seed, "`seed`")

    def _check_columns(self) -> None:
        """Columns of the pool that say more of its rows than what is embedded."""
        if self.cost_column is not None and self.token_budget is None:
            raise UserError("`cost_column` goes with `token_budget`, a budget in its unit: add it")
        if (self.group_by is None) != (self.group_cap is None):
            raise UserError("`group_by` and `group_cap` go together: give both")
        if self.quality is None and self.quality_weight != default_of("quality_weight"):
            raise UserError("`quality_weight` goes with `quality`, a column: add it")
        check_numbers(**{"`quality_weight`": self.quality_weight})
        if not 0 <= self.quality_weight < float("inf"):
            raise UserError(f"`quality_weight` must be at least 0, got {self.quality_weight}")
        for name in ("cost_column", "group_by", "quality"):
            if getattr(self, name) is not None and self.pool is None:
                raise UserError(f"`{name}` is a column: give the `pool` that has it")
        for name, takes, rules in (
            ("quality", "weighs", self.asked[:1]),
            ("group_by", "grouped", self.asked),
        ):
            for i, rule in enumerate(rules if getattr(self, name) is not None else ()):
                if not getattr(SELECTORS[rule], takes):
                    raise UserError(
                        f"`{'compare' if i else 'selector'}={rule}` does not look at `{name}`: "
                        f"leave it out, or take one of {_names(takes)}"
                    )

    def _check_choices(self) -> None:
        for name in ("on_empty", "deduplicate", "dtype", "cache_dtype", "positions", "normalize"):
            allowed, value = choices_of(name), getattr(self, name)
            if value not in allowed:
                raise UserError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}")

    def _check_source(self) -> None:
        if (self.model is None) == (self.embeddings is None):
            raise UserError("give either `model`, to embed the pool's text, or `embeddings`")
        if self.pool is None and self.embeddings is None:
            raise UserError("give a `pool`: a .jsonl, .parquet or .txt file")
        if self.embeddings is None:
            self._check_model()
        else:
            self._check_ready()

    def _check_model(self) -> None:
        for text, ready in _READY.items():
            if getattr(self, ready) is not None:
                raise UserError(f"`{ready}` goes with `embeddings`: of text give `{text}`")
        if self.deduplicate == "means":
            raise UserError("`deduplicate=means` goes with `embeddings`: of text take near")
        if self.cache_dtype != "float32" and path_of(self.cache) is None:
            raise UserError(f"`cache_dtype={self.cache_dtype}` goes with a `cache=DIR`: name one")

    def _check_ready(self) -> None:
        for text, ready in _READY.items():
            if getattr(self, text) is not None:
                raise UserError(f"`{text}` goes with `model`: with `embeddings` give `{ready}`")
        unused = [*OF_MODEL, *(() if self.reads_text else _COLUMNS)]
        for name in unused:
            if getattr(self, name) != default_of(name):
                raise UserError(
                    f"`{name}` goes with `model`: ready `embeddings` are taken as they are"
                )
        if self.reads_text and self.pool is None:
            raise UserError(
                "copies are told by the rows' text: give the `pool`, whose rows they are"
            )

    @property
    def rule(self) -> Rule:
        """The rule that chooses."""
        usual = "fisher" if self.token_budget is None else "fisher_per_token"
        return SELECTORS[self.selector or usual]

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the rules that choose: the selector's, then those compared with it."""
        return (self.rule.name, *self.compare)

    def _check_selector(self) -> None:
        if isinstance(self.compare, str):
            raise UserError(f"`compare` takes a list of names, got {self.compare!r}: use brackets")
        for i, name in enumerate(self.asked):
            if name in self.asked[:i]:
                raise UserError(f"`compare={name}` chooses already: name every other rule once")
            self._check_rule("compare" if i else "selector", SELECTORS[name])
        if self.devices > 1 and not self.rule.divides:
            raise UserError(
                f"`selector={self.rule.name}` divides no pool over `devices`: leave them out, or "
                f"take one of {_names('divides')}"
            )
        targets = _READY["targets"] if self.model is None else "targets"
        is_targeted = any(SELECTORS[name].targeted for name in self.asked)
        if getattr(self, targets) is not None and not is_targeted:
            raise UserError(f"`{targets}` goes with `selector={_names('targeted')}`: add one")
        if self.endpoint is not None and "ask_llm" not in self.asked:
            raise UserError("`endpoint` goes with `selector=ask_llm`: add it, or leave both out")
        if bool(self.endpoint) != bool(self.endpoint_model):
            raise UserError("`endpoint=URL` and `endpoint_model=NAME` go together: give both")
        if self.endpoint is not None and self.answers is None:
            raise UserError("`endpoint` needs a file for its answers: give `answers=FILE`")

    def _check_rule(self, option: str, rule: Rule) -> None:
        """Refuse a rule, named by this option, that can't be told what it needs."""
        asked = f"`{option}={rule.name}`"
        if rule not in OFFERED:
            raise UserError(f"{asked} needs {rule.needs[0]}, which no model tells")
        if self.embeddings is not None and {*rule.needs} - {"targets"}:
            raise UserError(f"{asked} asks the model: give `model`")
        targets, initial = (
            _READY[name] if self.model is None else name for name in ("targets", "initial")
        )
        if getattr(self, targets) is None and "targets" in rule.needs:
            raise UserError(f"{asked} chooses for a task: give its rows as `{targets}=FILE`")
        # a compared rule may ignore them, but for one of a task, which is told beyond them
        may_ignore = option == "compare" and not rule.targeted
        if getattr(self, initial) is not None and not (rule.adds or may_ignore):
            raise UserError(
                f"{asked} does not look at `{initial}`: leave it out, or take one of "
                f"{_names('adds')}"
            )
        if self.positions == "prompt" and rule.by_label:
            raise UserError(
                f"{asked} looks at completions: leave `positions=prompt` out, or take another "
                "selector"
            )

    @property
    def reads_text(self) -> bool:
        """Whether the pool's text is looked at."""
        is_by_text = self.deduplicate in ("exact", "near") or self.exclude is not None
        return self.embeddings is None or is_by_text

    def as_options(self) -> dict[str, Any]:
        """The options as JSON values: paths as text, rows and models in Python by what they are."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["answers"]  # a result
        if isinstance(values["cache"], bool):
            values["cache"] = None  # which changes no result
        values["compare"] = tuple(self.compare)
        return {name: _as_json(value) for name, value in values.items()}


def _names(takes: str) -> str:
    """Of the rules that take something."""
    return ", ".join(rule.name for rule in OFFERED if getattr(rule, takes))


def path_of(source: object) -> Path | None:
    """The file that a request names, None where it holds the thing itself, or nothing."""
    return Path(source) if isinstance(source, (str, os.PathLike)) else None


def names_of(source: object) -> list[str]:
    """Files and data sets that a request names, none where it holds the rows."""
    several = source if isinstance(source, tuple) else (source,)
    return [os.fspath(of) for of in several if isinstance(of, (str, os.PathLike))]


def choices_of(name: str) -> tuple[str, ...]:
    """Values of an option that is one of a few words."""
    return get_args(Request.__annotations__[name])


def default_of(name: str) -> Any:
    """The value of an option that is not given."""
    return Request.__dataclass_fields__[name].default


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, numbers.Real):  # NumPy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, tuple):
        return [_as_json(of) for of in value]
    if isinstance(value, Mapping):
        return {str(name): _as_json(of) for name, of in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    named = getattr(value, "name", None)
    return named if isinstance(named, str) else f"a {type(value).__name__} in Python"
