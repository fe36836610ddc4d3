"""The loss on plain text: what fine-tuning makes a model forget shows here."""

from minigpt import all_batches, evaluate

WINDOW = 256  # tokens of text that are read at once


def text_loss(model, tok, tokens, batch_size: int, precision: str = "fp32") -> float:
    """The model's loss on base documents, in nats per token. tokens: a token file, as `read_tokens` opens it."""
    batches = all_batches(tokens, tok.end_id, min(model.context_length, WINDOW), batch_size)
    return evaluate(model, batches, precision)
