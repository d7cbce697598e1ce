"""A preview window, with frames per second and latency."""

from __future__ import annotations

import os
import sys
from time import perf_counter

import cv2

from dtir_sdk.errors import OutputError
from dtir_sdk.files import reason
from dtir_sdk.pictures import Picture, swap_colors
from dtir_sdk.results import Result
from dtir_sdk.sinks.base import Sink
from dtir_sdk.sinks.fitting import fit

# SDL takes one of these, which show nothing, where there is no display.
_INVISIBLE = ("dummy", "offscreen")
# One of these says where Linux has a display, or by which driver SDL is to do without.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
# What an average keeps of its past with every frame.
_INERTIA = 0.9


class Window(Sink):
    """Shows `Result.plot()`, with frames per second and, of stamped results, the latency.

    Q, Esc or closing the window ends the run: it is `finished` then. The window may be resized.
    A process has one window, since it belongs to pygame-ce; an application with a window of its
    own draws `Result.plot()` there.

    Args:
        title: of the window.

    Raises:
        OutputError: there is no display, or pygame-ce is not installed or has a window already.
    """

    def __init__(self, title: str = "dtir") -> None:
        # Else importing it says hello on stdout.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError as error:
            raise OutputError(
                'a preview window needs pygame-ce: pip install "dtir[window]"'
            ) from error
        if pygame.display.get_init():
            raise OutputError("this process shows a window already: draw Result.plot() there")
        self._pygame = pygame
        self._open = True
        try:
            # Asked in vain, Wayland's library prints a line of its own.
            if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):
                raise pygame.error("no screen was found")
            pygame.display.init()
            driver = pygame.display.get_driver()
            if driver in _INVISIBLE and os.environ.get("SDL_VIDEODRIVER") != driver:
                raise pygame.error("no screen was found")
            pygame.display.set_caption(title)
        except pygame.error as error:
            self.close()
            raise OutputError(
                f"no window can be shown here ({reason(error)}): use --to "
                "http://127.0.0.1:8080 to watch in a browser"
            ) from error
        self._left = False
        self._written: float | None = None
        self._interval: float | None = None

    def write(self, result: Result) -> None:
        """Shows a picture, or nothing once the window was left."""
        if not self._open:
            raise OutputError("the window was used after close()")
        if self.finished():
            return
        picture = result.plot()
        _caption(picture, self._measure(result))
        pygame = self._pygame
        try:
            surface = pygame.display.get_surface()
            if surface is None:
                size = (picture.shape[1], picture.shape[0])
                surface = pygame.display.set_mode(size, pygame.RESIZABLE)
            shown = swap_colors(fit(picture, *surface.get_size()))
            image = pygame.image.frombuffer(shown.tobytes(), surface.get_size(), "RGB")
            surface.blit(image, (0, 0))
            pygame.display.flip()
        except pygame.error as error:
            raise OutputError(f"the window failed: {reason(error)}") from error

    def close(self) -> None:
        """Closes the window."""
        if self._open:
            self._open = False
            self._pygame.display.quit()

    def finished(self) -> bool:
        """Tells whether the window was left, and lets it answer its user meanwhile."""
        pygame = self._pygame
        if self._open and pygame.display.get_init():
            for event in pygame.event.get():
                quitted = event.type == pygame.QUIT
                pressed = event.type == pygame.KEYDOWN and event.key in (
                    pygame.K_q,
                    pygame.K_ESCAPE,
                )
                self._left = self._left or quitted or pressed
        return self._left

    def _measure(self, result: Result) -> str:
        now = perf_counter()
        if self._written is not None:
            passed = now - self._written
            self._interval = (
                passed
                if self._interval is None
                else _INERTIA * self._interval + (1 - _INERTIA) * passed
            )
        self._written = now
        parts = [f"{1 / self._interval:.0f} frames/s"] if self._interval else []
        if result.stamp is not None:
            parts.append(f"{1e3 * (now - result.stamp.captured):.0f} ms")
        return ", ".join(parts)


def _caption(picture: Picture, text: str) -> None:
    """Writes a line into the upper left corner, in place, readable on anything."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    cv2.rectangle(picture, (4, 4), (width + 12, height + below + 8), (0, 0, 0), cv2.FILLED)
    cv2.putText(picture, text, (8, height + 6), font, scale, (255,) * 3, 1, cv2.LINE_AA)
