"""Words of messages: what a library says, cut for a line of ours, and numbers of things."""


def one_line(error: BaseException, most: int = 200) -> str:
    """A library's message for a line of ours."""
    return " ".join(str(error).split())[:most]


def counted(n: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
