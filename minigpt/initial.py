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
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=_standard_deviation(name, model.config))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def _standard_deviation(name: str, config) -> float:
    if name.endswith(("output.weight", "down.weight")):
        return STD / (2 * config.n_layers) ** 0.5
    if "embedding" in name or name == "head.weight":
        return min(STD, 4 / config.d_model)
    return STD
