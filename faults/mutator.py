"""Damage to files: bits, spans and numbers of bytes, values and keys of JSON."""

import copy
import json
import random
import re
from typing import Any

NUMBERS = [b"0", b"-1", b"1e999", b"0.5", b"9" * 400, b"1000000", b"4294967296", b"NaN", b"null"]
VALUES: list[Any] = [
    None, True, 0, -1, 0.5, 1e308, 10**400, 10**6, 2**63, "", "x", "\ud800", "a" * 5000, [], [[]],
    {}, {"": None}, [1, "a"],
]  # fmt: skip
WORDS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]  # of a binary header
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        content = rng.choice(_CHANGES)(content, rng)
    return content


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """JSON with another value or key somewhere; now and then only its bytes are damaged."""
    if rng.random() < 0.25:
        return damaged(content, rng)
    root = {"": json.loads(content)}
    for _ in range(rng.choice([1, 1, 2])):
        parent, key = _place(root, rng)
        change = rng.random()
        if change < 0.2 and isinstance(parent, dict) and parent is not root:
            del parent[key]
        elif change < 0.3 and isinstance(parent, dict):
            name = rng.choice(["", "x", "\ud800", str(key) * 2])
            parent[name] = copy.deepcopy(parent[key])
        elif change < 0.4:
            parent[key] = [parent[key], copy.deepcopy(parent[key])]
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(root[""]).encode()


def _place(root: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container and a key or index of it; deeper ones are as likely as near ones."""
    parent, key = root, ""
    while True:
        child = parent[key]
        keys = [*child] if isinstance(child, dict) else range(len(child) if _is_list(child) else 0)
        if not keys or rng.random() < 0.3:
            return parent, key
        parent, key = child, rng.choice(keys)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _span(content: bytes, rng: random.Random, longest: int = 64) -> slice:
    near = rng.random() < 0.5  # headers come first
    begin = rng.randrange(min(len(content), 512) if near else len(content)) if content else 0
    return slice(begin, begin + rng.randint(1, longest))


def _put(content: bytes, at: slice, new: bytes) -> bytes:
    return content[: at.start] + new + content[at.stop :]


def _flip(content: bytes, rng: random.Random) -> bytes:
    at = _span(content, rng, 1)
    return _put(content, at, bytes(b ^ 1 << rng.randrange(8) for b in content[at]))


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    at = _span(content, rng)
    return _put(content, at, rng.randbytes(len(content[at])))


def _remove(content: bytes, rng: random.Random) -> bytes:
    return _put(content, _span(content, rng), b"")


def _repeat(content: bytes, rng: random.Random) -> bytes:
    at = _span(content, rng)
    return _put(content, at, content[at] * rng.choice([2, 3, 100]))


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _span(content, rng).start]


def _word(content: bytes, rng: random.Random) -> bytes:
    at = _span(content, rng, 1)
    size = rng.choice([4, 8])
    word = rng.choice(WORDS) % 256**size
    return _put(content, slice(at.start, at.start + size), word.to_bytes(size, "little"))


def _number(content: bytes, rng: random.Random) -> bytes:
    found = [*_NUMBER.finditer(content[:4096])]
    if not found:
        return _flip(content, rng)
    at = rng.choice(found)
    return _put(content, slice(*at.span()), rng.choice(NUMBERS))


_CHANGES = [_flip, _overwrite, _remove, _repeat, _cut, _word, _number]
