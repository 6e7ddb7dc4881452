"""Logistic regression on the words of a text."""

from torch import Tensor, nn


class BagOfWords(nn.Module):
    """A weight for each word and class, averaged over the text: a convex problem under cross-entropy.

    Inputs [B, L], words by their numbers, 0 where there is none; outputs logits [B, num_classes].

    Source: Joulin et al., "Bag of Tricks for Efficient Text Classification",
    https://arxiv.org/abs/1607.01759, without its hidden layer.

    Args:
        sparse: give gradients of the words in the batch alone, for optimizers that take those.
        vocabulary: how many words there are; None where the inputs are no words.

    Raises:
        ValueError: the inputs are no words.
    """

    def __init__(self, *, sparse: bool, vocabulary: int | None, num_classes: int) -> None:
        super().__init__()
        if vocabulary is None:
            raise ValueError("BagOfWords takes texts, not images; use dataset=python_reference")
        self.head = nn.EmbeddingBag(vocabulary, num_classes, mode="mean", padding_idx=0, sparse=sparse)
        # A word that was never seen says nothing.
        nn.init.zeros_(self.head.weight)

    def forward(self, texts: Tensor) -> Tensor:
        """Texts -> logits."""
        logits: Tensor = self.head(texts)
        return logits
