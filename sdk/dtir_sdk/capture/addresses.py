"""Addresses of streams, as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
_SECRET = re.compile(r"((?:pass|pwd|token|secret|auth|key)[^=/&;]*=)[^/&;]*", re.IGNORECASE)

SCHEMES = frozenset((*_PORTS, "rtp", "srt", "tcp", "udp"))
"""Of the streams that can be opened."""


def scheme_of(text: str) -> str | None:
    """Returns the scheme of an address in lower case; None where the text is no address.

    Examples:
        >>> scheme_of("RTSP://camera/live"), scheme_of("film.mp4")
        ('rtsp', None)
    """
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def without_secrets(address: str) -> str:
    """Returns an address that may be shown: user, password, query and fragment are left out.

    Rather too much is left out than too little: passwords are often written unquoted.

    Examples:
        >>> without_secrets("rtsp://admin:pa/ss@10.0.0.7:554/live?channel=1")
        'rtsp://***@10.0.0.7:554/live?***'
        >>> without_secrets("rtsp://camera/user=admin&password=1234&channel=1")
        'rtsp://camera/user=admin&password=***&channel=1'
    """
    scheme, _, rest = address.partition("://")
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    marks = [rest.find(mark) for mark in "?#" if mark in rest]
    if marks:
        rest = f"{rest[: min(marks) + 1]}***"
    return _SECRET.sub(r"\1***", f"{scheme}://{rest}")


def host_and_port(address: str) -> tuple[str, int] | None:
    """Returns where a stream's server listens on TCP; None where the address does not say."""
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme)
        host = parts.hostname
    except ValueError:
        return None
    return (host, port) if host and port and parts.scheme in _PORTS else None
