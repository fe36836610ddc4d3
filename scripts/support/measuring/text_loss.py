"""The loss on plain text, where it shows what fine-tuning makes a model forget; and a loss in other units (P3)."""

import math

import numpy as np

from minigpt import all_batches, evaluate

WINDOW = 256  # tokens of text that are read at once


def text_loss(model, tok, tokens, batch_size: int, precision: str = "fp32") -> float:
    """The model's loss on base documents, in nats per token. tokens: a token file, as `read_tokens` opens it."""
    batches = all_batches(tokens, tok.end_id, min(model.context_length, WINDOW), batch_size)
    return evaluate(model, batches, precision)


def perplexity(loss: float) -> float:
    """A loss in nats per token as the number of equally likely tokens that would be as hard to choose from.

    >>> round(perplexity(math.log(50)), 3)
    50.0
    """
    return math.exp(loss) if loss < 700 else math.inf


def told(loss: float) -> str:
    """A loss as a reader sees it.

    >>> told(.5)
    '0.500 (perplexity 1.65)'
    """
    shown = perplexity(loss)
    return f"{loss:.3f} (perplexity {shown:,.{2 if shown < 100 else 0}f})"


def bits_per_byte(loss: float, tok, tokens) -> float:
    """A loss in nats per token as bits per byte of the text: the same unit for every tokenizer."""
    counts = np.bincount(tokens, minlength=tok.vocab_size)
    special = set(tok.special.values())
    size = sum(int(counts[id]) * len(tok.token_bytes(id)) for id in counts.nonzero()[0].tolist() if id not in special)
    return loss / math.log(2) * len(tokens) / size
