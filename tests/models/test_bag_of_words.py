import pytest
import torch
from torch import nn

from optim_cli.models.bag_of_words import BagOfWords

TEXTS = torch.tensor([[3, 1, 3], [2, 0, 0]])


def made(sparse: bool) -> BagOfWords:
    model = BagOfWords(sparse=sparse, vocabulary=5, num_classes=2)
    with torch.no_grad():
        model.head.weight.copy_(torch.arange(10.0).view(5, 2))
    return model


def test_weights_of_the_words_are_averaged_without_the_padding() -> None:
    expected = torch.tensor([[(6 + 2 + 6) / 3, (7 + 3 + 7) / 3], [4.0, 5.0]])
    torch.testing.assert_close(made(True)(TEXTS), expected)


def test_nothing_is_known_at_first() -> None:
    assert not BagOfWords(sparse=True, vocabulary=5, num_classes=2)(TEXTS).any()


def test_sparse_gradients_are_the_rows_of_the_words() -> None:
    gradients = []
    for sparse in (True, False):
        model = made(sparse)
        nn.functional.cross_entropy(model(TEXTS), torch.tensor([0, 1])).backward()
        assert model.head.weight.grad is not None
        assert model.head.weight.grad.is_sparse == sparse
        gradients.append(model.head.weight.grad)
    assert set(gradients[0].coalesce().indices().flatten().tolist()) <= {0, 1, 2, 3}
    torch.testing.assert_close(gradients[0].to_dense(), gradients[1])
    assert not gradients[1][[0, 4]].any()


def test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="takes texts, not images; use dataset=python_reference"):
        BagOfWords(sparse=True, vocabulary=None, num_classes=2)
