"""`dtir cache`: what the engine cache holds, and how to empty it."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from dtir_sdk.engines.cache import EngineCache


def print_cache(cache: EngineCache, console: Console) -> None:
    """Prints what a cache holds, the last used first.

    Args:
        cache: the cache.
        console: where to.

    Raises:
        EngineError: the folder is another user's, open to others, or cannot be read.
    """
    entries = cache.entries()
    total = decimal(cache.size())
    console.print(
        f"{cache.folder}: {total} of {decimal(cache.largest)}, {len(entries)} engines",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if not entries:
        return
    table = Table("graph", "engine", "GPU", "precision", "batches", "size", "last used")
    for entry in entries:
        key = entry.key
        table.add_row(
            entry.graph,
            f"{key.library} {key.library_version}",
            f"{key.gpu} ({key.compute_capability})",
            key.precision,
            key.batches,
            decimal(entry.size),
            datetime.fromtimestamp(entry.used).astimezone().strftime("%Y-%m-%d %H:%M"),
        )
    console.print(table)


def clear_cache(cache: EngineCache, console: Console) -> None:
    """Empties a cache and says how much that freed.

    Args:
        cache: the cache.
        console: where to.

    Raises:
        EngineError: another process is building, or the folder cannot be used.
    """
    freed = decimal(cache.clear())
    console.print(f"{cache.folder}: freed {freed}", highlight=False, markup=False, soft_wrap=True)
