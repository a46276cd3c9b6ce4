"""Words of messages: texts cut for a line of ours, and numbers of things."""


def one_line(error: BaseException, most: int = 200) -> str:
    """A library's message for a line of ours."""
    return " ".join(str(error).split())[:most]


def counted(n: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def kind_of(value: object) -> str:
    """`an int`, `a list`."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def shortened(text: str, most: int) -> str:
    """A text in one line of at most so many characters and an ellipsis."""
    line = " ".join(text.split()) if len(text) <= 2 * most else " ".join(text[: 2 * most].split())
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[:most]}…"
