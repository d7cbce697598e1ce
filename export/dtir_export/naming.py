"""What a bundle is called."""

from __future__ import annotations

from dtir_sdk.errors import ConfigurationError


def bundle_name(given: str | None, default: str) -> str:
    """Returns the name that was given, or else the default one.

    Args:
        given: by the user; None leaves it to the default.
        default: of the run, or of the bundle that the new one is made of.

    Raises:
        ConfigurationError: it is empty, or taken from bytes that are no text.

    Examples:
        >>> bundle_name(None, "faces")
        'faces'
        >>> bundle_name("", "faces")
        Traceback (most recent call last):
        ...
        dtir_sdk.errors.ConfigurationError: '' is no name for a bundle: give one with --name
    """
    name = default if given is None else given
    if not name.strip() or name != name.encode(errors="ignore").decode():
        raise ConfigurationError(f"{name!r} is no name for a bundle: give one with --name")
    return name
