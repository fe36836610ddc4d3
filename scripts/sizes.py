"""The parameters of public models by our own config, and what training the largest one takes, on paper (P4, P6).

python -m scripts.sizes
"""

from scripts.support.command_line import Parser, run
from scripts.support.terminal import table

# The makers' counts: sums over the published files' tensors.
PUBLISHED = {
    "GPT-2 124M": 124_439_808,
    "GPT-2 355M": 354_823_168,
    "GPT-2 774M": 774_030_080,
    "GPT-2 1558M": 1_557_611_200,
    "SmolLM2 135M": 134_515_008,
    "Llama 3 8B": 8_030_261_248,
    "Llama 3 70B": 70_553_706_496,
    "Llama 3 405B": 405_853_388_800,
}
GPUS = 16_000  # H100 GPUs that trained Llama 3 405B: arXiv:2407.21783, section 3.3
GPU_BYTES = 80e9  # an H100's memory …
GPU_FLOPS = 400e12  # … and the speed that the report reaches on it (380 to 430 TFLOP/s)
BATCH_TOKENS, TRAINING_TOKENS = 16e6, 15.6e12  # the report's: tokens per step, and in all
# Bytes per parameter: products in bf16; gradients are summed in fp32; AdamW keeps two moments and the weights in fp32.
TRAINING_BYTES = {"weights": 2, "gradients": 4, "optimizer state": 12}


def config_of(name: str):
    """A public model's configuration: "GPT-2 124M", "Llama 3 8B", "SmolLM2 135M", …"""
    from minigpt import GPTConfig

    family, size = name.rsplit(" ", 1)
    return GPTConfig.gpt2(size) if family == "GPT-2" else GPTConfig.llama(size)


def parameters(config) -> int:
    """The number of parameters; the model is built on the meta device, which has shapes but no memory."""
    import torch

    from minigpt import GPT

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


def activation_bytes(config) -> int:
    """Bytes of bf16 that the forward pass of one token must keep for the backward pass, without recomputation.

    A block keeps the inputs of each operation: of the two norms and of what follows them, query, keys and values,
    attention's result, and in the MLP the inputs of the activation, of the gate's product and of the last matrix. A
    fused kernel recomputes attention's T × T probabilities. Korthikanti et al. 2022, arXiv:2205.05198, section 4.1.
    """
    C, F, KD = config.d_model, config.d_ff, config.n_kv_heads * config.d_head
    block = 4 * C + (C + 2 * KD) + C + (4 if config.mlp == "swiglu" else 2) * F
    return 2 * config.n_layers * block


def training(name: str = "Llama 3 405B") -> dict[str, float]:
    """What training takes, by name: bytes of weights, gradients, optimizer state and a batch's activations; FLOPs."""
    config = config_of(name)
    N = parameters(config)
    needed = {what: each * N for what, each in TRAINING_BYTES.items()}
    needed["activations of a batch"] = activation_bytes(config) * BATCH_TOKENS
    return needed | {"FLOPs per token": 6 * N, "FLOPs in all": 6 * N * TRAINING_TOKENS}


def main() -> None:
    Parser(__doc__, prog="scripts.sizes").parse_args()
    rows = []
    for name, published in PUBLISHED.items():
        config = config_of(name)
        shape = [config.n_layers, config.d_model, config.n_heads, config.n_kv_heads, config.d_ff, config.vocab_size]
        count = parameters(config)
        rows.append([name, f"{count:,}", "as published" if count == published else f"published: {published:,}", *shape])
    table(["model", "parameters", "", "layers", "d_model", "heads", "kv heads", "d_ff", "vocabulary"], rows)

    needed = training()
    print(f"\n  Training Llama 3 405B (P4): batches of {BATCH_TOKENS / 1e6:.0f} M tokens on {GPUS:,} GPUs of 80 GB")
    rows = [
        [what, f"{size / 1e12:,.1f} TB", f"{size / GPU_BYTES:,.0f}", f"{size / GPUS / 1e9:,.2f} GB"]
        for what, size in needed.items()
        if not what.startswith("FLOPs")
    ]
    table(["", "in all", "GPUs to hold it", f"a GPU's share of {GPUS:,}"], rows)
    each, whole = needed["FLOPs per token"], needed["FLOPs in all"]
    days = whole / (GPUS * GPU_FLOPS) / 86400
    full, tokens, speed = needed["weights"] / GPU_BYTES, TRAINING_TOKENS / 1e12, GPU_FLOPS / 1e12
    print(f"""  The weights alone fill {full:.0f} GPUs. So matrices, layers, batches and texts are all split, and
  activations are recomputed instead of kept. A token costs 6 N = {each:.1e} FLOPs, {tokens} T tokens {whole:.1e}:
  {days:.0f} days on all of the GPUs at {speed:.0f} TFLOP/s each, {days * GPUS / 365:,.0f} years on one of them.""")


if __name__ == "__main__":
    run(main)
