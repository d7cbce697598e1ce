"""How much of a face `Result.image` shows: `python benchmarks/coverage.py --faces FOLDER`.

Videos are made from held-out faces that move over moving backgrounds, with scale, rotation, motion
blur, noise and hands before the face (`synthetic.py`), and every frame goes through the SDK's
detector, tracker and composition. A pixel of the face (`synthetic.FaceRegion`: brows to chin, cheek
to cheek) is shown where the result depends on it: behind the same covers the frame is composed
twice, once with the face black and once with it white, and what differs is what is shown of it.
That is the cover's own transparency, whatever is painted on it, so a flat cartoon stands in for the
transfer generator.

With a look in every frame no face may be shown: the exit code is 1 where one is. With
`--detect-every` above 1 a face may get out from under its cover between two looks (docs/live.md),
so what is shown then is measured only.

Writes coverage.json and coverage.md into the output folder.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import tyro
from command import check_counts, one_line_errors
from conditions import write_report
from numpy.typing import NDArray
from rich.progress import track
from synthetic import Cutout, Motion, Scene, Shot, read_cutouts, sample_cutout

from dtir_sdk.cascade import Cascade, Cascaded
from dtir_sdk.errors import ConfigurationError
from dtir_sdk.face_session import FaceSession
from dtir_sdk.files import check_writable
from dtir_sdk.parties import Recognition
from dtir_sdk.pictures import Picture
from dtir_sdk.results import FrameStamp
from dtir_sdk.session import Following

SETTINGS = {
    "still": Motion(speed=0.0, turn=0.0, zoom=0.0),
    "moderate": Motion(speed=1.0, turn=20.0, zoom=0.3),
    "hand": Motion(speed=1.0, turn=20.0, zoom=0.3, hidden=0.4),
    "fast": Motion(speed=2.5, turn=45.0, zoom=0.6),
    "very-fast": Motion(speed=5.0, turn=90.0, zoom=1.2),
}
SIZE = 128
# Less than this share of a pixel's light cannot be told from the noise of a camera.
SHOWN = 0.05


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
        faces: folder or zip as `faces_hq` is, whose test split is used; the portrait that comes
            with dtir if none.
        output: folder for the report.
        settings: which of the settings; all if none.
        people: how many videos a setting, each of another person.
        frames: how many frames a video.
        rate: frames per second.
        detect_every: as `dtir run --detect-every`.
        hold: as `dtir run --hold`.
        seed: of all that is left to chance.
    """

    faces: Path | None = None
    output: Path = Path("dtir-output")
    settings: tuple[Literal["still", "moderate", "hand", "fast", "very-fast"], ...] = ()
    people: int = 20
    frames: int = 100
    rate: float = 30.0
    detect_every: int = 1
    hold: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Leak:
    """A frame that shows of the face what it should not.

    Attributes:
        person: number of the video.
        frame: number in it.
        share: of the face's pixels, that are shown.
        most: the largest share of a pixel's light that is shown.
        found: whether the detector found the face in this frame.
    """

    person: int
    frame: int
    share: float
    most: float
    found: bool


class _FlatCascade:
    """In the networks' place: where a cover lies does not depend on what is on it."""

    def __call__(self, crops: Picture) -> Cascaded:
        faces = tuple(Recognition("face", 1.0, {"face": 1.0}) for _ in crops)
        return Cascaded(np.full_like(crops, 128), faces, 0.0, 0.0)


class Exposure:
    """Follows one video, and tells for every frame how much of its face is shown.

    Args:
        following: see `Pipeline.video`.
    """

    def __init__(self, following: Following) -> None:
        flat = cast(Cascade, _FlatCascade())
        self._sessions = [FaceSession(flat, size=SIZE, following=following) for _ in range(2)]

    def of(self, shot: Shot, stamp: FrameStamp) -> tuple[NDArray[np.float32], bool]:
        """Takes the next frame.

        Returns:
            float32 [N], for every pixel of the face the share of its light that is shown, in
            [0, 1]; and whether the face was found.
        """
        look = self._sessions[0].look(shot.frame, stamp)
        shown = []
        for session, light in zip(self._sessions, (0, 255), strict=True):
            picture = shot.frame.copy()
            picture[shot.face] = light
            result = session.cover(replace(look, picture=picture))
            shown.append(result.image[shot.face].astype(np.float32))
        return np.abs(shown[1] - shown[0]).max(axis=1) / 255, bool(look.found)


def leaks(
    person: int, cutout: Cutout, motion: Motion, following: Following, arguments: Arguments
) -> tuple[list[Leak], int]:
    """Makes a video of a person and goes through it.

    Returns:
        The frames that show the face; and in how many frames the detector did not find the face.
    """
    seed = arguments.seed + 1000 * person
    scene = Scene([cutout], motion, rate=arguments.rate, seed=seed)
    exposure = Exposure(following)
    found_leaks, missed = [], 0
    for number in range(arguments.frames):
        shot = scene.shoot(number)
        stamp = FrameStamp(number, number / arguments.rate, 0.0)
        shown, found = exposure.of(shot, stamp)
        missed += not found
        most = float(shown.max(initial=0.0))
        if most > SHOWN:
            share = float((shown > SHOWN).mean())
            found_leaks.append(Leak(person, number, share, most, found))
    return found_leaks, missed


def main(arguments: Arguments) -> int:
    """Measures, prints and writes.

    Returns:
        The exit code.

    Raises:
        DtirError: it cannot be measured or written.
    """
    check_counts(people=arguments.people, frames=arguments.frames)
    if not 0 < arguments.rate < math.inf:
        raise ConfigurationError(f"rate is {arguments.rate:g}: it must be above 0")
    if arguments.seed < 0:
        raise ConfigurationError(f"seed is {arguments.seed}: it must be 0 or more")
    following = Following(arguments.detect_every, arguments.hold)
    check_writable(arguments.output)
    if arguments.faces is None:
        people = [sample_cutout()] * arguments.people
    else:
        people = read_cutouts(arguments.faces, arguments.people, seed=arguments.seed)
    total = arguments.people * arguments.frames
    lines = [
        f"Frames of {total} that show more than {SHOWN:.0%} of the light of any pixel of a face:",
        "",
        "| motion | face sizes a second | frames | median of the face's pixels | detector missed |",
        "|---|---|---|---|---|",
    ]
    uncovered = 0
    document: dict[str, object] = {"arguments": _plain(arguments), "shown": SHOWN}
    for name in arguments.settings or SETTINGS:
        motion = SETTINGS[name]
        found: list[Leak] = []
        missed = 0
        for number, person in enumerate(track(people, name, transient=True)):
            more, unfound = leaks(number, person, motion, following, arguments)
            found += more
            missed += unfound
        uncovered += len(found)
        share = float(np.median([leak.share for leak in found])) if found else 0.0
        document[name] = {
            "motion": asdict(motion),
            "frames": total,
            "uncovered": len(found),
            "missed": missed,
            "leaks": [asdict(leak) for leak in found],
        }
        lines.append(f"| {name} | {motion.speed:g} | {len(found)} | {share:.2%} | {missed} |")
    write_report(arguments.output, "coverage", document, lines)
    if uncovered and following.detect_every == 1:
        print(f"a face is shown in {uncovered} frames", file=sys.stderr)
        return 1
    return 0


def _plain(arguments: Arguments) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(arguments).items()
    }


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main(tyro.cli(Arguments, description=__doc__)))
