"""The first weights: so small that the first predictions are nearly uniform, and the first loss is about ln V (P3)."""

from torch import nn

STD = 0.02  # as in GPT-2


def initialise(model: nn.Module) -> None:
    """Draw every matrix of a GPT from a normal distribution around 0, in place; biases are 0 and norms 1.

    Projections that add to the stream are scaled by 1/sqrt(2 · n_layers), since that many of them add up in it.
    Embeddings of a wide model are smaller: a tied head would otherwise favour the token that it has just read.
    Radford et al. 2019, section 2.3.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith(("output.weight", "down.weight")):
            nn.init.normal_(parameter, std=STD / (2 * model.config.n_layers) ** 0.5)
        elif "embedding" in name or name == "head.weight":
            nn.init.normal_(parameter, std=min(STD, 4 / model.config.d_model))
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=STD)
