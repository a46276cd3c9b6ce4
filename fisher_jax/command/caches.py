"""`fisher-select cache`: what is kept of embeddings, and clearing it."""

import shutil
import sys
import time
from collections.abc import Sequence

from fisher_jax.command.words import NAME, Parser, path
from fisher_jax.util.errors import UserError


def caches(argv: Sequence[str]) -> None:
    """List a cache of embeddings, or clear it.

    Raises:
        UserError: arguments that it doesn't have, a model of which nothing is kept.
    """
    p = Parser(
        prog=f"{NAME} cache",
        description="List what a cache keeps of each model: bytes, when it was last used, folder.",
        allow_abbrev=False,
    )
    p.add_argument(
        "--cache", metavar="DIR", type=path, help="the folder (default: the user's cache)"
    )
    p.add_argument(
        "--clear",
        metavar="MODEL",
        nargs="?",
        const="",
        help="remove all of it, or what is kept of a model; another run that reads it goes on",
    )
    args = p.parse_args(argv)
    from fisher_jax.pipeline.cache import Cache, embeddings_folder  # brings JAX

    cache = Cache(args.cache or embeddings_folder())
    if cache.folder.exists() and not cache.folder.is_dir():
        raise UserError(f"`cache` {cache.folder} is no folder: name one")
    entries = [e for e in cache.entries() if args.clear in (None, "", e.name, e.place.name)]
    if args.clear and not entries:
        raise UserError(f"nothing is kept of {args.clear} in {cache.folder}: see {NAME} cache")
    for entry in entries:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        line = f"{entry.name}: {entry.size / 1e9:.3f} GB, last used {day}, {entry.place}"
        if args.clear is not None:
            shutil.rmtree(entry.place)
        print(f"{NAME}: {'removed ' * (args.clear is not None)}{line}", file=sys.stderr)
    if not entries:
        print(f"{NAME}: nothing is kept in {cache.folder}", file=sys.stderr)
