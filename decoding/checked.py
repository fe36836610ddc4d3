"""The filters as users call them: a bad argument is a ValueError."""

import inspect
from collections.abc import Callable
from functools import wraps

from torch import Tensor

from decoding.generate import check_logits
from decoding.settings import Settings, as_rows, expect


def checked(filter: Callable) -> Callable:
    """The filter for users: its arguments are checked, and then it runs as it is written."""
    signature = inspect.signature(filter)  # logits, sometimes histories, and the setting
    name = {"ban": "banned_ids"}.get(filter.__name__, filter.__name__)

    @wraps(filter)
    def call(*arguments, **named) -> Tensor:
        logits, *histories, setting = signature.bind(*arguments, **named).arguments.values()
        V = logits.shape[-1]
        expect(logits.is_floating_point(), "dtype of the logits", logits.dtype, "a floating-point one")
        check_logits(logits)
        settings = Settings(max_new_tokens=1, **{name: setting})
        settings.check_vocabulary(V)

        if histories:
            rows = as_rows("history", histories if logits.dim() == 1 else histories[0], V)
            expect(len(rows) == logits[..., 0].numel(), "number of histories", len(rows), "one per row of logits")
            histories = rows if logits.dim() == 1 else [rows]
        return filter(logits, *histories, getattr(settings, name))

    return call
