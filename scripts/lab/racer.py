"""The race's own model: ours with two more norms, which pay in a short run and which GPT-2 and Llama don't have."""

from torch import Tensor, nn

from minigpt import GPT
from minigpt.model import Norm


def normalised(model: GPT) -> GPT:
    """Give a fresh model, in place, a norm behind its token embedding and one for each head's queries and keys."""
    model.token_embedding = nn.Sequential(model.token_embedding, Norm(model.config))
    for block in model.blocks:
        norm = HeadNorm(model)
        block.attention.query = nn.Sequential(block.attention.query, norm)
        block.attention.key = nn.Sequential(block.attention.key, norm)
    return model


class HeadNorm(nn.Module):
    """The model's norm for each head's vector by itself, so that queries and keys have one length."""

    def __init__(self, model: GPT):
        super().__init__()
        self.norm = Norm(model.config)
        self.norm.weight = nn.Parameter(self.norm.weight[: model.config.d_head].clone())

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, len(self.norm.weight)))  # (B, T, H, D)
        return self.norm(heads).flatten(-2)
