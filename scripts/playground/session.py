"""What the page's server keeps between two requests: the models, and what they said about the last few texts.

A knob that moves filters kept logits again; only a text that is new is read by the model.
"""

import random
import threading
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from decoding.generate import check_logits
from scripts.support.models import model_directory, open_model

TEXTS = 256  # whose logits are kept
STATES = 4  # texts that the model can continue by one token without reading them again; a state is large


def models_here(also: str) -> dict[str, str]:
    """The models that the page offers: name -> path or short name. also: one more, a path perhaps."""
    names = {name: name for name in ("base", "sft", "smollm") if model_directory(name).exists()}
    names |= {"smaller": "runs/demo/smaller"} if Path("runs/demo/smaller/config.json").exists() else {}
    names |= {str(path.parent): str(path.parent) for path in sorted(Path("runs").glob("*/config.json"))}
    return names | {also: also}


class Session:
    """The models by name, opened when they are first asked for, and what they said."""

    def __init__(self, models: dict[str, str], first: str):
        self.models = models
        self.first = first  # the one that the page begins with
        self.opened: dict[str, tuple] = {}
        self.said: OrderedDict[tuple, Tensor] = OrderedDict()  # (model, ids) -> logits (V,)
        self.states: OrderedDict[tuple, object] = OrderedDict()  # (model, ids) -> the model's state after them
        self.lock = threading.RLock()

    def open(self, name: str) -> tuple:
        """The model and the tokenizer of a name in the list. ValueError for another name."""
        if name not in self.models:
            raise ValueError(f"model is {name!r}; expected one of {', '.join(self.models)}")
        with self.lock:
            if name not in self.opened:
                self.opened[name] = open_model(self.models[name])
            return self.opened[name]

    def logits_after(self, name: str, ids: list[int]) -> Tensor:
        """The logits (V,) of the token after ids: kept, or one step after what is kept, or read anew."""
        text, shorter = (name, tuple(ids)), (name, tuple(ids[:-1]))
        model, _ = self.open(name)
        with self.lock:
            if text not in self.said:
                if shorter in self.states:
                    logits, state = model.step(self.states.pop(shorter), torch.tensor(ids[-1:]))  # used once
                else:
                    logits, state = model.prefill([ids])
                check_logits(logits)
                self.said[text] = logits[0] if logits.dtype == torch.float64 else logits[0].float()
                self.states[text] = state

            # forget the oldest
            self.said.move_to_end(text)
            for kept, most in ((self.said, TEXTS), (self.states, STATES)):
                while len(kept) > most:
                    kept.popitem(last=False)
            return self.said[text]


def uniform(seed: int, place: int) -> float:
    """The number that `generate` draws with at a place of the text, 0 for the first new token (G3, G6)."""
    chance = random.Random(seed)
    for _ in range(place):
        chance.random()
    return chance.random()
