"""How far two sequences are the same."""

from collections.abc import Sequence


def common(a: Sequence, b: Sequence) -> int:
    """Length of the longest common prefix, by bisection."""
    same, most = 0, min(len(a), len(b))
    while same < most:
        middle = (same + most + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
