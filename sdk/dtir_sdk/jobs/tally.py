"""How many were read as what, in words."""

from __future__ import annotations

from collections import Counter

from dtir_sdk.bundle import Bundle


def tally(labels: Counter[str], bundle: Bundle) -> str:
    """Says how many faces, or whole pictures, were read as what.

    Args:
        labels: how often each label was read.
        bundle: that read them.

    Examples:
        >>> tally(Counter(["male", "female", "male"]), Bundle.open())
        'faces: female 1, male 2'
    """
    what = "faces" if bundle.manifest.crop == "face" else "labels"
    return f"{what}: {', '.join(f'{label} {n}' for label, n in sorted(labels.items())) or 'none'}"
