import pytest
import torch

from optim_cli.datasets.augmentation import CropFlip
from optim_cli.datasets.draws import Draws


def one_by_one(
    images: torch.Tensor, order: torch.Tensor, augmentation: CropFlip, draws: Draws
) -> torch.Tensor:
    """Pad, cut and mirror each sample in a Python loop."""
    padding = augmentation.padding
    _, channels, height, width = images.shape
    tops, lefts = (draws.integers(n, 2 * padding + 1).tolist() for n in (0, 1))
    mirrored = draws.integers(2, 2).tolist()
    results = []
    for place, sample in enumerate(order.tolist()):
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        padded[:, padding : padding + height, padding : padding + width] = images[sample]
        window = padded[:, tops[place] : tops[place] + height, lefts[place] : lefts[place] + width]
        results.append(window.flip(2) if augmentation.flip and mirrored[place] else window)
    return torch.stack(results)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("padding", "shape"), [(0, (1, 5, 3)), (2, (3, 4, 7)), (4, (2, 6, 6))])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_flip_equals_a_loop_over_samples(
    seed: int,
    generator: torch.Generator,
    padding: int,
    shape: tuple[int, ...],
    flip: bool,
    dtype: torch.dtype,
) -> None:
    images = torch.randint(1, 256, (50, *shape), generator=generator).to(dtype)
    order = torch.randperm(50, generator=generator)
    augmentation, draws = CropFlip(padding=padding, flip=flip), Draws(seed, 2, order)

    canvas = augmentation.canvas(images)
    window = augmentation.epoch(canvas, order, draws)

    expected = one_by_one(images, order, augmentation, draws)
    assert torch.equal(torch.cat([window(slice(0, 17)), window(slice(17, 60))]), expected)
    assert torch.equal(augmentation.uncanvas(canvas), images)


def test_all_shifts_and_both_sides_occur(seed: int) -> None:
    """A single white pixel in the middle shows the shift; a second one beside it, the side."""
    images = torch.zeros(2000, 1, 7, 7, dtype=torch.uint8)
    images[:, 0, 3, 3], images[:, 0, 3, 4] = 1, 2
    order = torch.arange(2000)
    augmentation = CropFlip(padding=2, flip=True)
    window = augmentation.epoch(augmentation.canvas(images), order, Draws(seed, 0, order))
    seen = {tuple((image == 1).nonzero()[0].tolist()[1:]) for image in window(slice(None))}
    assert seen == {(row, column) for row in range(1, 6) for column in range(1, 6)}
    right = sum(
        int((image == 2).nonzero()[0, 2] > (image == 1).nonzero()[0, 2]) for image in window(slice(None))
    )
    assert 850 < right < 1150
