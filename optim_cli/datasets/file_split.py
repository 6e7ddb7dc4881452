"""A split whose images are read from files, batch by batch."""

import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from optim_cli.datasets.dataset import Split
from optim_cli.datasets.draws import hash64, permutation
from optim_cli.datasets.normalization import Normalization

Transform = Callable[[Any], Tensor]  # an image as the source gives it -> uint8 [C, H, W]


class Source(Protocol):
    """A map-style dataset of torch: (image, label) by number. Reading draws no random numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, int]: ...


class _Epoch(MapDataset[tuple[Tensor, int]]):
    """The samples of one epoch, as the workers of a DataLoader see them."""

    def __init__(
        self,
        source: Source,
        transform: Transform,
        seed: int,
        epoch: int | None,
    ) -> None:
        self._source = source
        self._transform = transform
        self._seed = seed
        self._epoch = epoch

    def __getitem__(self, sample: int) -> tuple[Tensor, int]:
        image, label = self._source[sample]
        if self._epoch is None:
            return self._transform(image), label
        # The transforms of torchvision draw from torch's global generator on the CPU. Without
        # workers that is the caller's, so it is put back.
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of the GPUs as well.
            torch.default_generator.manual_seed(int(hash64(self._seed, self._epoch, sample)))
            return self._transform(image), label


def _ignore_signals(worker: int) -> None:
    """Leave it to the process that trains whether to stop: a terminal signals the workers as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class FileSplit(Split):
    """Images of a map-style dataset, read and transformed by worker processes.

    Args:
        evaluate: transform without randomness.
        train: transform of training epochs; all its randomness must come from torch's generator.
        seed: of shuffling and augmentation.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        source: Source,
        normalization: Normalization,
        evaluate: Transform,
        train: Transform | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self._source = source
        self._normalization = normalization
        self._evaluate = evaluate
        self._train = train or evaluate
        self._seed = seed
        self._workers = workers

    def __len__(self) -> int:
        return len(self._source)

    def batches(
        self, batch_size: int, device: torch.device, epoch: int | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read in the background, normalised on the device."""
        if epoch is None:
            order, transform = torch.arange(len(self)), self._evaluate
        else:
            order, transform = permutation(len(self), self._seed, epoch), self._train
        numbers = order.tolist()
        loader = DataLoader(
            _Epoch(self._source, transform, self._seed, epoch),
            batch_sampler=[
                numbers[first : first + batch_size]
                for first in range(start * batch_size, len(self), batch_size)
            ],
            num_workers=self._workers,
            worker_init_fn=_ignore_signals,
            pin_memory=device.type == "cuda",
            # Of its own, since the loader draws a number from the global one otherwise.
            generator=torch.Generator(),
        )
        normalize = self._normalization.on(device)
        for images, labels in loader:  # uint8 goes to the device: a quarter of float32's bytes
            yield (
                normalize(images.to(device, non_blocking=True)),
                labels.to(device, non_blocking=True),
            )
