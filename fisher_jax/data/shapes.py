"""Which columns of a pool are meant, and the example that they make of a row."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fisher_jax.data.example import Example, PoolError
from fisher_jax.data.messages import messages_of, tools_of, transcript_of
from fisher_jax.util.excerpt import kind_of

Record = Mapping[str, Any]
SYSTEM = ("system", "system_prompt")
ALWAYS = ("tools", "chat_template_kwargs")
CONTEXT = ("input", "context")
TELLING = (*CONTEXT, *SYSTEM, "history")  # where they are not read, that is told


class Shape(NamedTuple):
    """The columns of one kind of row.

    Attributes:
        name: for `--format`.
        columns: that every row has.
        make: an example of a row with them; raises a ValueError that begins with the column.
        others: that a row may have, of which the example tells as well.
    """

    name: str
    columns: tuple[str, ...]
    make: Callable[[Record, tuple[str, ...]], Example]
    others: tuple[str, ...] = ()

    def example(self, record: Record) -> Example:
        """What a row means.

        Raises:
            ValueError: nothing that could be learnt; the message begins with the column.
        """
        return self.make(record, self.columns)

    @property
    def reads(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        return tuple(dict.fromkeys((*self.columns, *self.others)))

    def told(self, names: Collection[str]) -> str:
        """The shape of rows with columns of these names in a few words, for a line of the command.

        Of the columns that may say something, also which are read and which are not.
        """
        there = [column for column in self.reads if column in names]
        more = there[len(self.columns) :]
        less = [column for column in TELLING if column in names and column not in there]
        told = f"{self.name} ({' + '.join(self.columns)})"
        told += f", with {', '.join(more)}" * bool(more)
        return told + f", without {', '.join(less)}" * bool(less)


def _text(record: Record, columns: Sequence[str]) -> Example:
    (column,) = columns
    value = record[column]
    if isinstance(value, str):
        return Example(_checked(value, column))
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{column!r} holds {kind_of(value)}, not a string")
    return Example("") if value is None else _chat(record, columns)


def _pair(record: Record, columns: Sequence[str]) -> Example:
    values = [record[column] for column in columns]
    if list in map(type, values) and all(of is None or isinstance(of, list) for of in values):
        before, after = (_messages(record, column) for column in columns)
        return Example(after, before, **_of_template(record))
    before, after = (_string(record, column) for column in columns)
    if columns[0] == "instruction":
        before = _question(record, columns)
    return Example(after, before)


def _chat(record: Record, columns: Sequence[str]) -> Example:
    (column,) = columns
    return Example([*_system(record), *_messages(record, column)], **_of_template(record))


def _instruction(record: Record, columns: Sequence[str]) -> Example:
    answered = _string(record, columns[1])
    asks = {"role": "user", "content": _question(record, columns)}
    prompt = [*_system(record), *_history(record), asks]
    completion = [{"role": "assistant", "content": answered}] if answered else []
    return Example(completion, prompt, **_of_template(record))


def _question(record: Record, columns: Sequence[str]) -> str:
    """What is asked, and what it is about: an instruction's `input`, a question's `context`."""
    asked, answer = columns
    context = next((c for c in CONTEXT if c not in columns and record.get(c)), None)
    if context and asked != "instruction" and not isinstance(record[context], str):
        raise ValueError(
            f"{context!r} holds {kind_of(record[context])}, not a string: to read rows without it "
            f"name `prompt_column={asked}` and `completion_column={answer}`"
        )
    parts = [_string(record, column) for column in (asked, context) if column is not None]
    return "\n\n".join(filter(None, parts))


def _history(record: Record) -> list[dict[str, Any]]:
    """Questions and answers that came before, in pairs."""
    pairs = record.get("history") or []
    if not isinstance(pairs, list) or any(
        not isinstance(pair, list) or [*map(type, pair)] != [str, str] for pair in pairs
    ):
        raise ValueError("'history' holds something else than pairs of strings")
    return _messages({"history": [turn for pair in pairs for turn in pair]}, "history")


def _chosen(record: Record, columns: Sequence[str]) -> Example:
    (column,) = columns
    value, prompt = record[column], record.get("prompt")
    if isinstance(value, str) and not value.lstrip().startswith("["):
        _checked(value, column)
        if isinstance(prompt, str) and not value.lstrip().startswith("Human:"):
            return Example(value, _checked(prompt, "prompt"))
        return Example(_of_column(transcript_of, record, column))
    after = _messages(record, column)
    if isinstance(prompt, str):  # which many sets repeat beside a whole chat
        prompt = [] if not prompt or any(m["role"] == "user" for m in after) else [prompt]
    if not prompt:
        return _chat(record, columns)
    before = [*_system(record), *_messages({"prompt": prompt}, "prompt")]
    begin = after.index(before[-1]) + 1 if before[-1] in after else 0  # of the answer
    asked = max(before, after[:begin], key=len)
    return Example(after[begin:], asked, **_of_template(record))


# The first whose columns are all there is meant. Instruction and output come before text: Alpaca
# has both, the text being the others in a form of its own.
_ASKS = (*CONTEXT, *SYSTEM, "history", *ALWAYS)
SHAPES = (
    Shape("alpaca", ("instruction", "output"), _instruction, _ASKS),
    Shape("text", ("text",), _text, ALWAYS),
    Shape("messages", ("messages",), _chat, (*SYSTEM, *ALWAYS)),
    Shape("prompt-completion", ("prompt", "completion"), _pair, ALWAYS),
    Shape("sharegpt", ("conversations",), _chat, (*SYSTEM, *ALWAYS)),
    Shape("conversation", ("conversation",), _chat, (*SYSTEM, *ALWAYS)),
    Shape("dolly", ("instruction", "response"), _instruction, _ASKS),
    Shape("flan", ("inputs", "targets"), _instruction, _ASKS),
    Shape("question-answer", ("question", "answer"), _instruction, _ASKS),
    Shape("question-response", ("question", "response"), _instruction, _ASKS),
    Shape("query-response", ("query", "response"), _instruction, _ASKS),
    Shape("query-answers", ("query", "answers"), _instruction, _ASKS),
    Shape("prompt-response", ("prompt", "response"), _instruction, _ASKS),
    Shape("problem-solution", ("problem", "solution"), _instruction, _ASKS),
    Shape("input-output", ("input", "output"), _instruction, _ASKS),
    Shape("chosen", ("chosen",), _chosen, ("prompt", *SYSTEM, *ALWAYS)),
)
FORMATS = tuple(shape.name for shape in SHAPES)


@dataclass(frozen=True)
class Columns:
    """Which columns the user says are meant; nothing: those of the first of `SHAPES` that fits.

    Attributes:
        format: name of a shape.
        text: column with a text, or with messages.
        messages: column with messages.
        prompt, completion: columns with strings, or with messages.
    """

    format: str | None = None
    text: str | None = None
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            PoolError: a prompt without a completion or the other way round, two ways at once, or an
                unknown format.
        """
        if (self.prompt is None) != (self.completion is None):
            raise PoolError("`prompt_column` and `completion_column` go together: give both")
        ways = [self.format, self.text, self.messages, self.prompt]
        if sum(way is not None for way in ways) > 1:
            raise PoolError(
                "give one of `format`, `text_column`, `messages_column`, or `prompt_column` with "
                "`completion_column`"
            )
        if self.format is not None and self.format not in FORMATS:
            raise PoolError(f"`format={self.format}` is none of {', '.join(FORMATS)}")

    @property
    def named(self) -> bool:
        """Whether columns are named at all, so that plain text doesn't do."""
        return self != Columns()

    def shape_of(self, names: Collection[str]) -> Shape:
        """The shape of rows with columns of these names.

        Raises:
            PoolError: what is asked for is missing, or nothing is known; without the file's name.
        """
        shape = self._asked()
        if shape is None:
            shape = next((s for s in SHAPES if {*s.columns} <= {*names}), None)
        if shape is None:
            raise PoolError(
                f"has no column 'text', nor others that are known, it has {_quoted(names)}: name "
                "them by `text_column`, `messages_column`, or `prompt_column` and "
                "`completion_column`, or see `format`"
            )
        check_columns(shape, names)
        return shape

    def _asked(self) -> Shape | None:
        if self.text is not None:
            return Shape("text", (self.text,), _text, ALWAYS)
        if self.messages is not None:
            return Shape("messages", (self.messages,), _chat, (*SYSTEM, *ALWAYS))
        if self.prompt is not None and self.completion is not None:
            others = (*CONTEXT, *ALWAYS) if self.prompt == "instruction" else ALWAYS
            return Shape("prompt-completion", (self.prompt, self.completion), _pair, others)
        return next((shape for shape in SHAPES if shape.name == self.format), None)


def check_columns(shape: Shape, names: Collection[str]) -> None:
    """Are the columns of a shape there?

    Raises:
        PoolError: one is not; without the file's name.
    """
    for column in shape.columns:
        if column not in names:
            raise PoolError(
                f"has no column {column!r}, it has {_quoted(names)}: see `text_column` and `format`"
            )


def example_of(row: "str | Record | Example", columns: Columns | None = None) -> Example:
    """A row given in Python: a string is a text, of a mapping the columns decide.

    Raises:
        PoolError: something else; without the row's name.
    """
    if isinstance(row, Example):
        return row
    if isinstance(row, str):
        return Example(_checked(row, "text"))
    if not isinstance(row, Mapping):
        raise PoolError("is neither a string nor a mapping with text, messages or the like")
    try:
        return (columns or Columns()).shape_of(row).example(row)
    except PoolError:
        raise
    except ValueError as error:
        raise PoolError(f"column {error}") from None


def examples_of(rows: Sequence["str | Record | Example"]) -> list[Example]:
    """Rows given in Python as examples, see `example_of`.

    Raises:
        PoolError: one is none; it begins with the row's number.
    """
    examples = []
    for i, row in enumerate(rows):
        try:
            examples.append(example_of(row))
        except PoolError as error:
            raise PoolError(f"row {i} {error}") from None
    return examples


def _of_column(convert: Callable[[Any], Any], record: Record, column: str) -> Any:
    """What a column's value makes, its name before the message of a ValueError."""
    try:
        return convert(record[column])
    except ValueError as error:
        raise ValueError(f"{column!r} {error}") from None


def _messages(record: Record, column: str) -> list[dict[str, Any]]:
    messages = _of_column(messages_of, record, column)
    for message in messages:
        _checked(message.get("content") or "", column)
    return messages


def _system(record: Record) -> list[dict[str, Any]]:
    column = next((c for c in SYSTEM if record.get(c)), None)
    return [] if column is None else [{"role": "system", "content": _string(record, column)}]


def _of_template(record: Record) -> dict[str, Any]:
    """What a row tells its chat template beside the messages."""
    told: dict[str, Any] = {}
    if record.get("tools"):
        told["tools"] = _of_column(tools_of, record, "tools")
    if options := record.get("chat_template_kwargs"):
        if not isinstance(options, Mapping):
            raise ValueError("'chat_template_kwargs' holds something else than an object")
        told["options"] = {k: v for k, v in options.items() if v is not None}
    return told


def _string(record: Record, column: str) -> str:
    value = record[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{column!r} holds {kind_of(value)}, not a string")
    return _checked(value, column)


def _checked(text: str, column: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{column!r} holds half a character (a lone surrogate)") from None
    return text


def _quoted(names: Collection[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
