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
    *_, last = signature.parameters  # what the filter calls its setting: top_k says k
    name = {"ban": "banned_ids"}.get(filter.__name__, filter.__name__)

    @wraps(filter)
    def call(*arguments, **named) -> Tensor:
        given = signature.bind(*arguments, **named).arguments  # by name
        logits = given["logits"]
        is_row = isinstance(logits, Tensor) and logits.dim() > 0 and logits.shape[-1] > 0
        expect(is_row, "logits", logits, "a tensor (..., V)")
        V = logits.shape[-1]
        expect(logits.is_floating_point(), "dtype of the logits", logits.dtype, "a floating-point one")
        check_logits(logits)
        expect(given[last] is not None, name, None, "a value")
        settings = Settings(max_new_tokens=1, **{name: given[last]})
        settings.check_vocabulary(V)
        given[last] = getattr(settings, name)

        if "histories" in given:
            alone = logits.dim() == 1  # one row, and its history is the list itself
            rows = as_rows("history", [given["histories"]] if alone else given["histories"], V)
            expect(len(rows) == logits[..., 0].numel(), "number of histories", len(rows), "one per row of logits")
            given["histories"] = rows[0] if alone else rows
        return filter(**given)

    return call
