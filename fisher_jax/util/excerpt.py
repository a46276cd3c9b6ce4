"""Messages of libraries, cut for a line of ours."""


def one_line(error: BaseException, most: int = 200) -> str:
    """A library's message for a line of ours."""
    return " ".join(str(error).split())[:most]
