"""What a next-token distribution looks like: how many tokens it allows, and how uncertain it is (G7 to G10)."""

from torch import Tensor


def kept(logits: Tensor) -> int:
    """The number of tokens that the filters have left. logits: (V,), -inf where a token is out."""
    return int(logits.isfinite().sum())


def entropy(logits: Tensor) -> float:
    """Entropy in nats of one distribution, logits (V,): 0 when one token is certain, ln V when all are equally likely.

    >>> import torch
    >>> round(entropy(torch.zeros(4)), 3)                # ln 4
    1.386
    """
    p = logits.softmax(-1)
    return (p * -p.clamp_min(1e-30).log()).sum().item()
