"""From a base model to one that answers (S1 to S6): only the data is new; the loop is minigpt's."""

from .data import Example, collate, encode_examples, epoch_picks, example_batches, mix
from .files.chat_template import end_ids
from .files.demonstrations import read_examples
from .finetune import fine_tune
from .template import Message, encode_conversation

__all__ = [
    "Example", "Message", "collate", "encode_conversation", "encode_examples", "end_ids", "epoch_picks",
    "example_batches", "fine_tune", "mix", "read_examples",
]  # fmt: skip
