"""Muon: a quicker optimizer for matrices. A first reading skips this file."""

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Set all singular values of each matrix to about 1, keeping its directions (Jordan et al. 2024, "Muon").

    matrices: (N, rows, columns) -> the same shape. Newton-Schulz: with X = U S V', the product (X X')^n X is
    U S^(2n+1) V', so a polynomial in X X' acts on the singular values alone. This one is applied `steps` times,
    x -> a x + b x^3 + c x^5; its coefficients lift small values fast and leave them between about .7 and 1.2.

    >>> orthogonalise(torch.diag(torch.tensor([9.0, 0.5]))[None]).diagonal(dim1=1, dim2=2).round(decimals=1)
    tensor([[0.7000, 0.9000]])
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the smaller of the two products is the cheaper
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # singular values at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum whose update is orthogonalised: each direction of a matrix moves equally far.

    parameters: matrices by name, with .grad. Matrices of one shape are stacked and treated at once. dtype: that of
    the products; bfloat16 is precise enough, where it is quick.
    """

    def __init__(self, parameters: dict[str, Tensor], momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        self.parameters, self.momentum, self.dtype = parameters, momentum, dtype
        self.moments = {f"momentum.{name}": torch.zeros_like(p) for name, p in parameters.items()}
        self.shapes: dict[torch.Size, list[str]] = {}
        for name, parameter in parameters.items():
            self.shapes.setdefault(parameter.shape, []).append(name)

    @torch.no_grad()
    def step(self, lr: float, count: int) -> None:
        """Move every matrix; count, the number of this step, is not needed here."""
        for (rows, columns), names in self.shapes.items():
            updates = []
            for name in names:
                gradient, mean = self.parameters[name].grad, self.moments[f"momentum.{name}"]
                mean.lerp_(gradient, 1 - self.momentum)
                updates.append(gradient.lerp(mean, self.momentum))  # Nesterov: one step ahead
            directions = orthogonalise(torch.stack(updates).to(self.dtype))
            length = lr * max(1, rows / columns) ** 0.5
            for name, direction in zip(names, directions):
                self.parameters[name].add_(direction, alpha=-length)
