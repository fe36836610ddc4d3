"""The same as decoding/generate.py, faster; tests/test_decoding_twins.py holds the two equal, row for row.

All prompts are continued side by side, so that the model reads one token of each per step. Each row has a random
generator of its own and comes out as it would alone. A row that has ended leaves the batch and costs nothing more.
"""

import random

import torch
from torch import Tensor

from decoding import filters
from decoding.generate import Generation, check_logits, draw, why_stop
from decoding.protocol import LanguageModel
from decoding.settings import Settings, room_for


@torch.inference_mode()
def generate_each(model: LanguageModel, prompts: list, settings: Settings, seeds: list) -> list[Generation]:
    """The loop for all prompts at once."""
    if not prompts:
        return []
    chances = [random.Random(seed) for seed in seeds]
    texts = [list(prompt) for prompt in prompts]
    new_ids, logprobs, stops = [[] for _ in prompts], [0.0] * len(prompts), [""] * len(prompts)
    rows = list(range(len(prompts)))  # the prompts still being continued, B of them
    logits, state = model.prefill([list(prompt) for prompt in prompts])  # (B, V)
    settings.check_vocabulary(logits.shape[-1], prompts)

    for length in range(1, settings.max_new_tokens + 1):
        # filter what the model says
        logits = logits if logits.dtype == torch.float64 else logits.float()
        check_logits(logits, rows)
        filtered = filters.apply_filters(logits, [texts[row] for row in rows], settings)  # (B, V)

        # choose one token per row
        blocked = (filtered.amax(-1) == filters.OUT).tolist()
        ids = _choose(filtered, settings, [chances[row] for row in rows])  # (B,)
        gains = logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1).tolist()

        # append it, row by row, and see which rows go on
        going = []
        for i, (row, id) in enumerate(zip(rows, ids.tolist(), strict=True)):
            id = None if blocked[i] else id
            if id is not None:
                texts[row].append(id)
                new_ids[row].append(id)
                logprobs[row] += gains[i]
            stops[row] = why_stop(id, length, room_for(model, prompts[row]), settings)
            if stops[row] is None:
                going.append(i)
        if not going:
            break

        # drop the rows that have ended, and ask the model again
        if len(going) < len(rows):
            keep = torch.tensor(going, device=ids.device)
            rows, ids, state = [rows[i] for i in going], ids[keep], model.reorder(state, keep)
        logits, state = model.step(state, ids)  # (B, V)
    return [Generation(*row) for row in zip(new_ids, logprobs, logprobs, stops, strict=True)]


def _choose(filtered: Tensor, settings: Settings, chances: list[random.Random]) -> Tensor:
    """One id per row (B,); any id at all for a row with no token left."""
    if settings.temperature == 0:
        return filtered.argmax(-1)
    uniforms = [chance.random() for chance in chances]
    ids = draw(filtered, torch.tensor(uniforms, dtype=torch.float64, device=filtered.device))
    return ids.clamp(max=filtered.shape[-1] - 1)
