"""Batches as a function of the step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtir_train.configuration import Data
from dtir_train.datasets.augmentation import moved, random_backgrounds, recoloured
from dtir_train.datasets.decoded import Pictures
from dtir_train.datasets.draws import Draws

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """One step's pictures.

    Attributes:
        photos: float32 [N, 3, S, S] in [-1, 1], RGB, of the secret domain.
        labels: int64 [N].
        targets: float32 [N, 3, S, S] in [-1, 1], RGB, of the target domain, unpaired.
    """

    photos: Tensor
    labels: Tensor
    targets: Tensor


class Batches:
    """The batch of any step, from the seed and the step alone; processes share it.

    Every epoch is a new shuffle of the secret pictures; target pictures are drawn in shuffles of
    their own. A last, smaller batch is left out.

    Args:
        secret: training pictures of the secret domain.
        target: training pictures of the target domain.
        data: how pictures are varied.
        batch_size: pictures a step over all processes.
        seed: of shuffles and augmentation.
        rank: which of the processes this is.
        processes: how many share a batch.
        device: where pictures are varied and given: a GPU does it in a fraction of a step, where
            the CPU would hold it up. What is drawn for them is the same everywhere.

    Raises:
        ValueError: where `batch_size` is no multiple of `processes`.
    """

    def __init__(
        self,
        secret: Pictures,
        target: Pictures,
        data: Data,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        device: torch.device = _CPU,
    ) -> None:
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} is no multiple of {processes} processes")
        self._secret, self._target, self._data = secret, target, data
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._processes, self._device = rank, processes, device
        self._shuffles: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def steps_an_epoch(self) -> int:
        """Steps in a pass over the secret pictures, at least 1."""
        return max(1, len(self._secret) // self._batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Makes this process's share of the batch of a step, counted from 0."""
        share = self._batch_size // self._processes
        mine = slice(self._rank * share, (self._rank + 1) * share)
        chosen = self._positions(step, 0, self._secret)[mine]
        drawn = self._positions(step, 1, self._target)[mine]
        places = range(mine.start, mine.stop)
        return Batch(
            self._photos(chosen, Draws((self._seed, step, 0, place) for place in places)),
            torch.from_numpy(self._secret.labels[chosen]).to(self._device),
            self._targets(drawn, Draws((self._seed, step, 1, place) for place in places)),
        )

    def prepared(self, start: int, stop: int, *, ahead: bool) -> Generator[Batch]:
        """Gives the batches of steps in turn.

        Args:
            start: the first step.
            stop: the step after the last.
            ahead: make each in a thread while the one before is used: where a GPU trains. Where
                the CPU does, the two would take its cores from each other, and a step of `edge`
                takes a fifth longer.
        """
        if not ahead:
            yield from map(self.__getitem__, range(start, stop))
            return
        with ThreadPoolExecutor(1, "dtir-batches") as thread:
            following = thread.submit(self.__getitem__, start) if start < stop else None
            for step in range(start, stop):
                assert following is not None
                batch = following.result()
                if step + 1 < stop:
                    following = thread.submit(self.__getitem__, step + 1)
                yield batch

    def _positions(self, step: int, domain: int, pictures: Pictures) -> NDArray[np.int64]:
        """The batch's positions in a domain: a window on its endless run of shuffles."""
        count = len(pictures)
        # The secret domain starts a new shuffle with each epoch; the target one flows on.
        length = self.steps_an_epoch * self._batch_size if domain == 0 else count
        numbers = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        shuffles, places = numbers // length, numbers % length % count
        return np.array(
            [
                self._shuffle(domain, int(shuffle), count)[place]
                for shuffle, place in zip(shuffles, places, strict=True)
            ]
        )

    def _shuffle(self, domain: int, number: int, count: int) -> NDArray[np.int64]:
        key = (domain, number)
        if key not in self._shuffles:
            if len(self._shuffles) > 8:
                self._shuffles.clear()
            generator = np.random.default_rng([self._seed, domain, number])
            self._shuffles[key] = generator.permutation(count)
        return self._shuffles[key]

    def _photos(self, positions: NDArray[np.int64], draws: Draws) -> Tensor:
        pictures = _as_tensor(self._secret.pictures[positions], self._device)
        pictures = moved(pictures, self._data.jitter, self._data.flip, draws)
        photos, foreground = pictures[:, :3], pictures[:, 3:]
        chosen = draws.uniform() < self._data.random_backgrounds
        if chosen.any():
            some = chosen.nonzero().flatten().to(self._device)
            backgrounds = random_backgrounds(pictures.shape[-1], draws.among(chosen), self._device)
            photos[some] = backgrounds.lerp(photos[some], foreground[some] / 255)
        return _scaled(recoloured(photos, self._data.colour_jitter, draws))

    def _targets(self, positions: NDArray[np.int64], draws: Draws) -> Tensor:
        pictures = _as_tensor(self._target.pictures[positions][..., :3], self._device)
        return _scaled(moved(pictures, self._data.jitter / 2, self._data.flip, draws))


def photos_of(pictures: Pictures, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Returns photos float32 [N, 3, S, S] in [-1, 1] and labels int64 [N] as they are."""
    photos = _as_tensor(pictures.pictures[positions][..., :3])
    return _scaled(photos), torch.from_numpy(pictures.labels[positions])


def _as_tensor(pictures: NDArray[np.uint8], device: torch.device = _CPU) -> Tensor:
    """uint8 [N, S, S, C] to float32 [N, C, S, S]; what goes to a GPU goes as bytes."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).contiguous().float()


def _scaled(pictures: Tensor) -> Tensor:
    """Takes [0, 255] to [-1, 1], in place."""
    return pictures.div_(127.5).sub_(1)
