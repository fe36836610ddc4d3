"""How many bytes a model's tensors take, and what a forward pass leaves behind for the backward pass (P4)."""

from collections.abc import Iterable
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def bytes_here(tensors: Iterable[Tensor]) -> int:
    """The bytes that tensors take in this process: of a sharded one, its share.

    >>> bytes_here([torch.zeros(3, 5), torch.zeros(2, dtype=torch.float64)])
    76
    """
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


class Live(TorchDispatchMode):
    """Inside it, notes the memory that each operation takes; `bytes` says how much of it is still in use.

    >>> weight, x = torch.ones(7, requires_grad=True), torch.ones(7)
    >>> with Live() as live:
    ...     y = (weight * x).exp()      # the result is kept for the backward pass of exp, the product is not
    >>> live.bytes()
    28
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[int, ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        given = {id(storage) for storage in _storages((arguments, named))}
        result = function(*arguments, **named or {})
        new = (storage for storage in _storages(result) if id(storage) not in given)  # a view takes none
        self.taken |= {id(storage): ref(storage) for storage in new}
        return result

    def bytes(self) -> int:
        in_use = [storage() for storage in self.taken.values() if storage() is not None]
        return sum(storage.nbytes() for storage in in_use)


def _storages(values: object) -> list[torch.UntypedStorage]:
    """The memory of all tensors in arguments or results."""
    tensors = (value for value in tree_leaves(values) if isinstance(value, Tensor) and not hasattr(value, "to_local"))
    return [tensor.untyped_storage() for tensor in tensors]
