"""`dtir cache`: what the engine cache holds, and how to empty it."""

from __future__ import annotations

from datetime import datetime

from dtir_sdk.engines.cache import EngineCache
from dtir_sdk.terminal import megabytes, table


def list_cache(cache: EngineCache) -> str:
    """Says what a cache holds: its engines, the last used first, and how much else there is.

    Raises:
        EngineError: the folder is another user's, open to others, or cannot be read.
    """
    entries, notes = cache.entries(), cache.notes()
    total, largest = megabytes(cache.size()), megabytes(cache.largest)
    summary = (
        f"{cache.folder}: {total} of {largest}, {len(entries)} engines, {len(notes)} compiled "
        f"graphs, kernels and timings ({megabytes(sum(notes))})"
    )
    if not entries:
        return summary
    rows = [
        (
            entry.graph,
            f"{entry.key.library} {entry.key.library_version}",
            f"{entry.key.gpu} ({entry.key.compute_capability})",
            entry.key.precision,
            entry.key.batches,
            megabytes(entry.size),
            datetime.fromtimestamp(entry.used).astimezone().strftime("%Y-%m-%d %H:%M"),
        )
        for entry in entries
    ]
    header = ("graph", "engine", "GPU", "precision", "batches", "size", "last used")
    return f"{summary}\n{table(header, rows)}"


def clear_cache(cache: EngineCache) -> str:
    """Empties a cache and says how much that freed.

    Raises:
        EngineError: another process is building, or the folder cannot be used.
    """
    return f"{cache.folder}: freed {megabytes(cache.clear())}"
