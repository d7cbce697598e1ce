"""Synthetic video: cut-out faces that move over a moving background, with what a camera adds.

The faces are pictures that stand on white and whose landmarks are known, such as the test split of
`faces_hq`, or the portrait that comes with dtir. Where the face is in every frame is therefore
known to the pixel.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dtir_sdk.errors import DataError
from dtir_sdk.faces import FaceFinder
from dtir_sdk.files import reason
from dtir_sdk.pictures import Picture, decode_picture, read_picture
from dtir_sdk.sources import SAMPLE_PORTRAIT

WIDTH, HEIGHT = 640, 480

_POINTS = ("leye", "reye", "nose", "lmouth", "rmouth")
# Lighter than this in every channel is the white that a face stands on.
_WHITE = 240
# The shutter is open while a frame moves on by so many steps, which are averaged.
_SUBFRAMES = 4
# Degrees to either side; times as large at the nearest, and as small at the farthest.
_MOST_TURNED, _NEAREST = 15.0, 1.25


@dataclass(frozen=True)
class FaceRegion:
    """The ellipse that counts as the face: from brows to chin, from cheek to cheek.

    With `d` the distance from the middle of the eyes to the middle of the mouth, and `e` that
    between the eyes: it reaches 0.35 d above the eyes and 0.75 d below the mouth, and is 2.2 e
    wide, at least 2.0 d, since a turned head brings the eyes together but not the cheeks.

    Attributes:
        centre: x, y in pixels.
        across: half the width, in pixels.
        down: half the height, in pixels.
        angle: by how much it is turned clockwise, in degrees.
    """

    centre: tuple[float, float]
    across: float
    down: float
    angle: float

    @classmethod
    def of(cls, landmarks: NDArray[np.float32]) -> FaceRegion:
        """Computes it from landmarks, float32 [5, 2] as in `faces.FoundFace`."""
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        axis = mouth - eyes
        length = float(np.hypot(*axis))
        apart = float(np.hypot(*(landmarks[1] - landmarks[0])))
        x, y = eyes + 0.7 * axis
        return cls(
            (float(x), float(y)),
            max(1.1 * apart, length),
            1.05 * length,
            math.degrees(math.atan2(-axis[0], axis[1])),
        )

    def mask(self, height: int, width: int, *, scale: float = 1.0) -> Picture:
        """Draws it, or `scale` times it: uint8 [height, width], 255 inside."""
        drawn = np.zeros((height, width), np.uint8)
        cv2.ellipse(
            drawn,
            (round(16 * self.centre[0]), round(16 * self.centre[1])),
            (round(16 * self.across * scale), round(16 * self.down * scale)),
            self.angle,
            0,
            360,
            255,
            cv2.FILLED,
            cv2.LINE_AA,
            4,
        )
        return drawn


@dataclass(frozen=True, eq=False)
class Cutout:
    """A person to be set into frames.

    Attributes:
        picture: uint8 [H, W, 3] BGR.
        opacity: uint8 [H, W], 255 where the person is.
        region: the face.
    """

    picture: Picture
    opacity: Picture
    region: FaceRegion

    def reduced_to(self, width: float) -> Cutout:
        """Returns it so that the face is at most `width` pixels wide."""
        factor = width / (2 * self.region.across)
        if factor >= 1:
            return self
        height, width_ = self.opacity.shape
        size = (max(1, round(factor * width_)), max(1, round(factor * height)))
        x, y = self.region.centre
        return Cutout(
            cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8),
            cv2.resize(self.opacity, size, interpolation=cv2.INTER_AREA).astype(np.uint8),
            FaceRegion(
                (factor * x, factor * y),
                factor * self.region.across,
                factor * self.region.down,
                self.region.angle,
            ),
        )


def read_cutouts(source: Path, count: int, *, seed: int = 0, split: str = "test") -> list[Cutout]:
    """Reads people from a split of a folder or zip with `labels.csv` and `images/`.

    Args:
        source: as `faces_hq` is: the table has `file`, `split` and the landmarks `leye_x` to
            `rmouth_y`, and the pictures stand on white.
        count: how many, drawn by chance.
        seed: of the chance.
        split: what the table calls it.

    Raises:
        DataError: the table is not there, holds fewer people with landmarks, or names a picture
            that is not there or landmarks that are no numbers.
        PictureError: a picture is damaged.
    """
    try:
        root = zipfile.Path(source) if source.suffix == ".zip" else source
        rows = list(csv.DictReader((root / "labels.csv").read_text().splitlines()))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} holds no labels.csv that can be read") from error
    rows = [row for row in rows if row.get("split") == split and row.get("leye_x")]
    if len(rows) < count:
        raise DataError(f"{source} holds {len(rows)} {split} faces with landmarks, not {count}")
    picked = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    people = []
    for number in picked:
        row = rows[number]
        try:
            name = row["file"]
            data = (root / "images" / name).read_bytes()
            landmarks = [[float(row[f"{point}_{axis}"]) for axis in "xy"] for point in _POINTS]
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{source}/labels.csv: {row.get('file')} cannot be used: {reason(error)}"
            ) from error
        picture = decode_picture(data, name)
        region = FaceRegion.of(np.array(landmarks, np.float32))
        people.append(Cutout(picture, _off_white(picture), region))
    return people


def sample_cutout() -> Cutout:
    """Cuts the head out of the portrait that comes with dtir, with a soft edge."""
    picture = read_picture(SAMPLE_PORTRAIT)
    region = FaceRegion.of(FaceFinder().find(picture)[0].landmarks)
    head = region.mask(picture.shape[0], picture.shape[1], scale=1.45)
    return Cutout(picture, _blurred(head, 0.1 * region.across), region)


def _off_white(picture: Picture) -> Picture:
    """255 where there is no white that goes on to the picture's border."""
    white = np.pad((picture.min(axis=2) >= _WHITE).astype(np.uint8), 1, constant_values=1)
    _, parts = cv2.connectedComponents(white, connectivity=4)
    person = np.where(parts[1:-1, 1:-1] == parts[0, 0], 0, 255).astype(np.uint8)
    # The outermost pixels are mixed with white.
    return _blurred(cv2.erode(person, np.ones((3, 3), np.uint8)).astype(np.uint8), 0.7)


def _blurred(picture: Picture, sigma: float) -> Picture:
    return cv2.GaussianBlur(picture, (0, 0), sigma).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Motion:
    """How fast a face moves at most. Its size is the width of its `FaceRegion`, on the mean.

    Attributes:
        speed: face sizes a second.
        turn: degrees a second, up to 15 degrees to either side.
        zoom: doublings of the size a second, up to 1.25 times larger and smaller.
        shutter: share of the time from frame to frame in which the shutter is open, in [0, 1].
        hidden: a hand, or what is like one, passes before the face so that at most this share of
            the face's width lies behind it; 0 for none.
    """

    speed: float
    turn: float
    zoom: float
    shutter: float = 0.5
    hidden: float = 0.0


@dataclass(frozen=True, eq=False)
class Shot:
    """A frame, and where its faces are.

    Attributes:
        frame: uint8 [H, W, 3] BGR.
        face: bool [H, W], where a face is to be seen, and not what is before it.
    """

    frame: Picture
    face: NDArray[np.bool_]


class Scene:
    """People who move about before a background, as a camera with noise sees them.

    Each has a part of the frame of their own.

    Args:
        people: who.
        motion: how they move.
        rate: frames per second.
        seed: of all that is left to chance: places, sizes, phases, the background, the noise.
        noise: standard deviation of a pixel, in grey levels.
    """

    def __init__(
        self,
        people: Sequence[Cutout],
        motion: Motion,
        *,
        rate: float = 30.0,
        seed: int = 0,
        noise: float = 3.0,
    ) -> None:
        random = np.random.default_rng(seed)
        self._rate = rate
        self._shutter = motion.shutter
        self._background = _background(random)
        self._drift = random.uniform(0, 2 * math.pi)
        columns = math.ceil(math.sqrt(len(people)))
        rows = math.ceil(len(people) / columns)
        self._actors = [
            _Actor(
                person,
                motion,
                ((n % columns) * WIDTH // columns, (n // columns) * HEIGHT // rows),
                (WIDTH // columns, HEIGHT // rows),
                random,
            )
            for n, person in enumerate(people)
        ]
        self._noise = random.normal(0, noise, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.float32)
        self._random = random

    def shoot(self, number: int) -> Shot:
        """Takes frame `number`, from 0."""
        steps = [
            (number + self._shutter * step / _SUBFRAMES) / self._rate
            for step in range(_SUBFRAMES if self._shutter else 1)
        ]
        light = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        share = np.zeros((HEIGHT, WIDTH), np.float32)
        for seconds in steps:
            picture = self._pan(seconds)
            face = np.zeros((HEIGHT, WIDTH), np.uint8)
            for actor in self._actors:
                actor.paint(picture, face, seconds)
            cv2.accumulate(picture, light)
            cv2.accumulate(face, share)
        top, left = self._random.integers(0, 64, 2)
        noise = self._noise[top : top + HEIGHT, left : left + WIDTH]
        frame = np.clip(np.rint(light / len(steps) + noise), 0, 255).astype(np.uint8)
        return Shot(frame, share > 127.5 * len(steps))

    def _pan(self, seconds: float) -> Picture:
        """The part of the background before which the camera moves about."""
        spare_y, spare_x = np.array(self._background.shape[:2]) - (HEIGHT, WIDTH)
        left = round(spare_x * (0.5 + 0.5 * math.sin(0.5 * seconds + self._drift)))
        top = round(spare_y * (0.5 + 0.5 * math.cos(0.4 * seconds + self._drift)))
        return self._background[top : top + HEIGHT, left : left + WIDTH].copy()


class _Actor:
    """A person who moves about within a part of the frame."""

    def __init__(
        self,
        person: Cutout,
        motion: Motion,
        corner: tuple[int, int],
        size: tuple[int, int],
        random: np.random.Generator,
    ) -> None:
        self._motion = motion
        # At its nearest, the face still fits into its part of the frame.
        self._width = random.uniform(0.16, 0.3) * min(size)
        self._person = person.reduced_to(_NEAREST * self._width)
        self._swing = random.uniform(0.4, 0.8) * self._width
        self._middle = (corner[0] + size[0] / 2, corner[1] + 0.45 * size[1])
        self._phases = random.uniform(0, 2 * math.pi, 4)
        self._skin = random.integers((60, 90, 120), (150, 180, 230)).tolist()

    def paint(self, picture: Picture, face: Picture, seconds: float) -> None:
        """Sets the person into a picture, and into `face` where the face is to be seen."""
        transform, region = self._place(seconds)
        high, wide = self._person.opacity.shape
        corners = np.array([[0, 0, 1], [wide, 0, 1], [0, high, 1], [wide, high, 1]]) @ transform.T
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int), (WIDTH, HEIGHT))
        if left < right and top < bottom:
            transform[:, 2] -= (left, top)
            part = picture[top:bottom, left:right]
            size = (int(right - left), int(bottom - top))
            drawn = cv2.warpAffine(
                self._person.picture, transform, size, borderMode=cv2.BORDER_REPLICATE
            )
            opacity = cv2.warpAffine(self._person.opacity, transform, size)
            opacity = opacity.astype(np.float32) / 255
            part[:] = cv2.blendLinear(drawn, part, opacity, 1 - opacity)
        np.maximum(face, region.mask(HEIGHT, WIDTH), out=face)
        if self._motion.hidden:
            hand = self._hand(region, seconds)
            picture[hand > 0] = self._skin
            face[hand > 0] = 0

    def _place(self, seconds: float) -> tuple[NDArray[np.float64], FaceRegion]:
        """From the cut-out's pixels to the frame's, and where the face comes to lie there."""
        region, motion = self._person.region, self._motion
        speed = motion.speed * self._width
        to_right, down, turned, near = self._phases
        x = self._middle[0] + _swing(self._swing, 0.8 * speed, seconds, to_right)
        y = self._middle[1] + _swing(0.6 * self._swing, 0.6 * speed, seconds, down)
        angle = _swing(_MOST_TURNED, motion.turn, seconds, turned)
        width = self._width * 2 ** _swing(math.log2(_NEAREST), motion.zoom, seconds, near)
        scale = width / (2 * region.across)
        rotation = cv2.getRotationMatrix2D(region.centre, -angle, scale).astype(np.float64)
        rotation[:, 2] += np.array((x, y)) - region.centre
        moved = FaceRegion((x, y), width / 2, scale * region.down, region.angle + angle)
        return rotation, moved

    def _hand(self, region: FaceRegion, seconds: float) -> Picture:
        """What passes before the face, from left to right in two of every three seconds."""
        wide = self._motion.hidden * 2 * region.across
        way = (seconds / 3 + self._phases[0]) % 1.0 * 1.5 - 0.25
        x = region.centre[0] + (2 * way - 1) * (region.across + wide)
        hand = np.zeros((HEIGHT, WIDTH), np.uint8)
        left, right = round(x - wide / 2), round(x + wide / 2)
        top = round(region.centre[1] - 0.8 * region.down)
        cv2.rectangle(hand, (left, top), (right, HEIGHT), 255, cv2.FILLED)
        return hand


def _swing(reach: float, speed: float, seconds: float, phase: float) -> float:
    """To and fro by `reach` at most, at `speed` at most."""
    return reach * math.sin(speed / reach * seconds + phase)


def _background(random: np.random.Generator) -> Picture:
    """A room of sorts, larger than the frame: soft light, and things with edges and textures."""
    height, width = HEIGHT * 5 // 4, WIDTH * 5 // 4
    room = np.zeros((height, width, 3), np.float32)
    for cells in (2, 8, 32):
        rough = random.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        room += (smooth * 80 / cells**0.5).astype(np.float32)
    room += random.uniform(70, 180, 3).astype(np.float32)
    for _ in range(14):
        left, top = random.integers(0, (width, height))
        wide, high = random.integers(20, 240, 2)
        thing = room[top : top + high, left : left + wide]
        thing *= 0.3
        thing += random.uniform(0, 180, 3).astype(np.float32)
        if random.random() < 0.5:
            thing[:: random.integers(3, 12)] += random.uniform(-60, 60)
    return np.clip(room, 0, 255).astype(np.uint8)
