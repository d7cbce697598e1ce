from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtir_sdk.capture.addresses import host_and_port, scheme_of, without_secrets


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://camera:8554/live", "rtsp://camera:8554/live"),
        ("rtsp://user:pass@camera/live", "rtsp://***@camera/live"),
        ("rtsp://user:p@ss@camera/live", "rtsp://***@camera/live"),
        ("rtsp://user:p/a?s#s@camera/live", "rtsp://***@camera/live"),
        ("http://camera/video?user=a&pwd=b", "http://camera/video?***"),
        ("http://camera/video#secret", "http://camera/video#***"),
        (
            "rtsp://camera/user=a&Password=b&channel=1",
            "rtsp://camera/user=a&Password=***&channel=1",
        ),
        ("https://camera/token=abc/live", "https://camera/token=***/live"),
    ],
)
def test_shown(address, shown):
    assert without_secrets(address) == shown


@given(
    user=st.text(max_size=8),
    password=st.text("abcXYZ019@/?#&:%= ", min_size=1, max_size=12).map("S3cret{}".format),
)
def test_a_password_never_shows(user, password):
    shown = without_secrets(f"rtsp://{user}:{password}@camera/live")
    assert shown == "rtsp://***@camera/live"


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("RTSP://x", "rtsp"), ("file.mp4", None), ("C:\\film.mp4", None), ("a/b://c", None)],
)
def test_scheme(text, scheme):
    assert scheme_of(text) == scheme


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("rtsp://u:p@camera/x", ("camera", 554)),
        ("http://[::1]:81/x", ("::1", 81)),
        ("udp://camera:1234", None),
        ("http:///x", None),
        ("http://camera:port/x", None),
        ("http://[camera/x", None),
    ],
)
def test_place(address, place):
    assert host_and_port(address) == place
