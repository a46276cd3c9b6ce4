"""Fenced code of README and docs; above it may stand `<!-- run -->` or `<!-- not run: why -->`."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>run|not run: [^>]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block: where it stands, its language, its text and its mark."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def is_run(self):
        """Python is run unless a mark says why not, a shell's lines where a mark asks for it."""
        return self.mark == "run" if self.language == "sh" else not self.mark

    @property
    def place(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    """The Python and shell blocks of a page, in order."""
    text = page.read_text()
    found = [
        Block(
            page,
            text.count("\n", 0, m.start("text")) + 1,
            m["language"],
            m["text"],
            m["mark"] or "",
        )
        for m in _BLOCK.finditer(text)
    ]
    return [block for block in found if block.language in ("python", "sh")]


def commands_of(block):
    """A shell block's commands as words, joined over `\\` and parted at `&&` and `;`."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for word in words:
            if word in ("&&", ";") or not commands or commands[-1][0] is not words:
                commands.append((words, []))
            if word not in ("&&", ";"):
                commands[-1][1].append(word)
    return [command for _, command in commands if command]
