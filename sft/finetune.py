"""Supervised fine-tuning: build the batches, then call the loop that pretraining calls (S5)."""

from collections.abc import Iterator

from minigpt.config import TrainConfig
from minigpt.data import Batches
from minigpt.loop import Step, TrainState, train
from minigpt.model import GPT
from minigpt.tokenizer import Tokenizer

from .data import Example, encode_examples, example_batches, mix
from .files.chat_template import end_ids


def fine_tune(
    model: GPT, tok: Tokenizer, examples: list[Example], config: TrainConfig, *, batch_size: int = 32,
    loss_on: str = "response", replay: Batches | None = None, state: TrainState | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Train a base model in place on demonstrations; returns what `train` does (Ouyang et al. 2022, arXiv:2203.02155).

    Only the data differs from pretraining: prompts are masked out in the targets. loss_on="all" learns them too.
    replay: base documents whose rows join those of each step, so that less is forgotten. The token that ends an answer
    becomes one of tok.end_ids. ValueError, at the call, for an example that can't be laid out or has no response.
    """
    rows = encode_examples(tok, examples, model.context_length, loss_on)
    tok.end_ids = end_ids(tok)  # what `save` writes: so every program stops where this teaches it to
    batches = example_batches(rows, batch_size, config.seed)
    if replay:
        batches = mix(batches, replay)
    return train(model, batches, config, state)
