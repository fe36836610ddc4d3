"""The same as decoding/generate.py, faster; tests/test_decoding_twins.py holds the two equal, row for row.

All prompts are continued side by side, so that the model reads one token of each per step. Each row has a random
generator of its own and comes out as it would alone. A row that has ended leaves the batch and costs nothing more.
"""

import random
from dataclasses import replace

import numpy as np
import torch

from decoding import filters
from decoding.fast.ranking import array, draw
from decoding.generate import Generation, check_logits, why_stop
from decoding.protocol import LanguageModel
from decoding.settings import Settings, room_for
from decoding.stops import Reader


@np.errstate(over="ignore")
@torch.inference_mode()
def generate_each(model: LanguageModel, prompts: list, settings: Settings, seeds: list) -> list[Generation]:
    """The loop for all prompts at once."""
    if not prompts:
        return []
    chances = [random.Random(seed) for seed in seeds]
    texts = [list(prompt) for prompt in prompts]
    readers = [Reader(settings) for _ in prompts]
    new_ids, logprobs = [[] for _ in prompts], [[] for _ in prompts]
    stops, shown = [""] * len(prompts), ["" if settings.decode else None for _ in prompts]
    rows = list(range(len(prompts)))  # the prompts still being continued, B of them
    logits, state = model.prefill([list(prompt) for prompt in prompts])  # (B, V)
    settings.check_vocabulary(logits.shape[-1], prompts)

    is_greedy, kinds = settings.temperature == 0, settings
    if is_greedy and not settings.filters:  # only filters that look at the text or at a list can change the choice
        kinds = replace(settings, temperature=1.0, top_k=None, min_p=None, top_p=None, eos_id=tuple(settings.end_ids))

    for length in range(1, settings.max_new_tokens + 1):
        # check and filter what the model says
        logits = logits if logits.dtype == torch.float64 else logits.float()
        given, each = array(logits), np.arange(len(rows))  # (B, V) and (B,)
        largest = given[each, given.argmax(-1)]  # (B,): NaN, if there is one
        if not np.isfinite(largest).all():
            check_logits(logits, rows)
        *_, (_, filtered) = filters.filter_steps(logits, [texts[row] for row in rows], kinds, length)  # (B, V)

        # choose one token per row; what is chosen in a row with no token left is not used
        left = array(filtered)
        ids = left.argmax(-1)  # (B,)
        blocked = (left[each, ids] == filters.OUT).tolist()
        if not is_greedy:
            uniforms = torch.tensor([chances[row].random() for row in rows], dtype=torch.float64)
            ids = array(draw(filtered, uniforms))  # (B,)
        below = given - largest[:, None]  # (B, V)
        gains = (below[each, ids] - np.log(np.exp(below).sum(-1))).tolist()  # their log-softmax

        # append it, row by row, and see which rows go on
        going = []
        for i, (row, id) in enumerate(zip(rows, ids.tolist(), strict=True)):
            id = None if blocked[i] else id
            if id is not None:
                texts[row].append(id)
                new_ids[row].append(id)
                logprobs[row].append(gains[i])
            stops[row] = why_stop(id, length, room_for(model, prompts[row]), settings)
            if settings.decode:
                text, stops[row] = readers[row].read(id, stops[row])
                shown[row] += text
            if stops[row] is None:
                going.append(i)
        if not going:
            break

        # drop the rows that have ended, and ask the model again
        if len(going) < len(rows):
            rows, ids = [rows[i] for i in going], ids[going]
            state = model.reorder(state, torch.tensor(going, device=logits.device))
        logits, state = model.step(state, torch.as_tensor(ids, device=logits.device))  # (B, V)
    sums = [sum(row) for row in logprobs]
    return [Generation(*row) for row in zip(new_ids, sums, sums, stops, logprobs, shown, strict=True)]
