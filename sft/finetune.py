"""Supervised fine-tuning: build the batches, then call the loop that pretraining calls (S5)."""

from collections.abc import Iterator

from minigpt.config import TrainConfig
from minigpt.data import Batches
from minigpt.loop import Step, TrainState, train
from minigpt.model import GPT
from minigpt.tokenizer import Tokenizer

from .data import encode_examples, example_batches, mix
from .template import Example


def fine_tune(
    model: GPT,
    tok: Tokenizer,
    examples: list[Example],
    config: TrainConfig,
    *,
    batch_size: int = 32,
    loss_on: str = "response",
    replay: Batches | None = None,
    state: TrainState | None = None,
) -> Iterator[Step]:
    """Train a base model in place on demonstrations; yields what `train` yields (Ouyang et al. 2022, arXiv:2203.02155).

    The only difference to pretraining is the data: prompts are masked out in the targets. loss_on="all" learns them
    too. replay: base documents whose rows join those of each step, so that less is forgotten. ValueError for an
    example that can't be laid out or has no response, before the first step.
    """
    rows = encode_examples(tok, examples, model.context_length, loss_on)
    batches = example_batches(rows, batch_size, config.seed)
    yield from train(model, mix(batches, replay) if replay else batches, config, state)
