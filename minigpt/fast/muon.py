"""Muon: an optimizer that needs fewer steps than AdamW. Not a twin, but the other choice of TrainConfig.optimizer.

tests/test_muon.py compares it with the singular value decomposition, which it approximates.
"""

import torch
from torch import Tensor


class Muon:
    """Momentum whose update is orthogonalised: each direction of a matrix moves equally far (Jordan et al. 2024).

    parameters: matrices by name; one whose .grad is None is left alone. momentum: EMA coefficient of the gradient.
    dtype: that of the products; bfloat16 is precise enough.
    """

    def __init__(self, parameters: dict[str, Tensor], momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        if any(hasattr(weight, "full_tensor") for weight in parameters.values()):
            raise ValueError("optimizer='muon': needs whole matrices, a sharded model has only shares; use 'adamw'")
        self.parameters, self.momentum, self.dtype = parameters, momentum, dtype
        self.moments = {f"momentum.{name}": torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, lr: float, count: int) -> None:
        """Move every matrix that has a gradient; count, the number of this step, is not needed here."""
        # one update per matrix; matrices of one shape are stacked, a tall one transposed (its X X' is smaller then)
        stacks: dict[torch.Size, list[tuple[Tensor, Tensor, float]]] = {}
        for name, weight in self.parameters.items():
            if weight.grad is None:
                continue
            mean = self.moments[f"momentum.{name}"].lerp_(weight.grad, 1 - self.momentum)
            update = weight.grad.lerp(mean, self.momentum)  # Nesterov: one step ahead
            rows, columns = weight.shape
            length = max(1, rows / columns) ** 0.5
            if rows > columns:
                weight, update = weight.mT, update.mT
            stacks.setdefault(weight.shape, []).append((weight, update, length))

        # orthogonalise each stack at once, and move
        for stack in stacks.values():
            directions = orthogonalise(torch.stack([update for _, update, _ in stack]).to(self.dtype))
            for (weight, _, length), direction in zip(stack, directions):
                weight.add_(direction, alpha=-lr * length)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Set all singular values of each matrix to about 1, keeping its directions (Jordan et al. 2024, "Muon").

    matrices: (N, rows, columns) -> the same shape; wide ones take less time than tall ones. Newton-Schulz: with
    X = U S V', the product (X X')^n X is U S^(2n+1) V', so a polynomial in X X' acts on the singular values alone.
    This one is applied `steps` times, x -> a x + b x^3 + c x^5; its coefficients lift small values fast and leave
    them between about .7 and 1.2.

    >>> orthogonalise(torch.diag(torch.tensor([9.0, 0.5]))[None]).diagonal(dim1=1, dim2=2).round(decimals=1)
    tensor([[0.7000, 0.9000]])
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values at most 1
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G @ G
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a X + (b G + c G @ G) @ X
    return x
