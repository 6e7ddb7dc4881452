"""What the training loop consumes: a `Dataset` of `Split`s that yield batches on a device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

BatchSize = Annotated[int, Ge(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Seed = Annotated[int, Ge(0), Lt(2**63)]


class Split(ABC):
    """A part of a dataset: samples numbered 0 .. len - 1, each an image or a text and its class."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(
        self, batch_size: int, device: torch.device, epoch: int | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) on `device`; targets are int64 [B].

        Images are float32 [B, C, H, W], normalised; texts are int64 [B, L], words by their numbers.
        Every sample comes once; the last batch holds what is left and may be smaller. The tensors
        may be views of stored data: read them, do not write into them.

        Args:
            batch_size: B, samples per batch.
            device: where the tensors are wanted.
            epoch: None gives the samples in order and without augmentation, for evaluation. A
                number shuffles and augments for training: every random draw is a function of
                (seed, epoch, sample) alone, whatever the batch size, the device or the workers.
            start: number of the first batch to yield, so that a run resumed within an epoch does
                not load the batches before.
        """

    def num_batches(self, batch_size: int) -> int:
        """How many batches `batches` yields from the first on."""
        return -(-len(self) // batch_size)


@dataclass(frozen=True)
class Dataset:
    """A classification task on images or texts.

    Texts consist of words by their numbers, 0 .. vocabulary - 1, where 0 fills up what is shorter than L.
    `best` weights are chosen on `val` (None where `dataset.val_fraction` is 0); `test` is for the
    end of a run. `synthetic` data must be called so wherever a result on it is shown.
    """

    input_shape: tuple[int, ...]  # of images C, H, W; of texts L
    num_classes: int
    batch_size: int
    train: Split
    val: Split | None
    test: Split
    synthetic: bool = False
    vocabulary: int | None = None  # None for images
