"""Names and shapes on disk <-> ours: what makes a run directory a Hugging Face model directory.

A model of Llama's or GPT-2's architecture is written in that family's names, which `transformers` opens; any other mix
of switches is written in our own, for us alone. A GGUF file is a third way to write a Llama; we only read it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import GPTConfig

# Ours: what Llama's files call it, GPT-2's, and a GGUF file of a Llama. Keys of the config:
KEYS = {
    "vocab_size": ("vocab_size", "vocab_size", "vocab_size"),
    "context_length": ("max_position_embeddings", "n_positions", "context_length"),
    "n_layers": ("num_hidden_layers", "n_layer", "block_count"),
    "n_heads": ("num_attention_heads", "n_head", "attention.head_count"),
    "n_kv_heads": ("num_key_value_heads", None, "attention.head_count_kv"),
    "d_model": ("hidden_size", "n_embd", "embedding_length"),
    "d_ff": ("intermediate_size", "n_inner", "feed_forward_length"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon", "attention.layer_norm_rms_epsilon"),
    "rope_theta": ("rope_theta", None, "rope.freq_base"),
    "tie_embeddings": ("tie_word_embeddings", "tie_word_embeddings", None),
    "bias": ("attention_bias", None, None),
    "dropout": ("attention_dropout", "resid_pdrop", None),
}
# Modules; {} is the layer's number. GPT-2 keeps query, key and value side by side in one matrix.
NAMES = {
    "token_embedding": ("model.embed_tokens", "transformer.wte", "token_embd"),
    "position_embedding": (None, "transformer.wpe", None),
    "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm", "transformer.h.{}.ln_1", "blk.{}.attn_norm"),
    "blocks.{}.attention.query": ("model.layers.{}.self_attn.q_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_q"),
    "blocks.{}.attention.key": ("model.layers.{}.self_attn.k_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_k"),
    "blocks.{}.attention.value": ("model.layers.{}.self_attn.v_proj", "transformer.h.{}.attn.c_attn", "blk.{}.attn_v"),
    "blocks.{}.attention.output": (
        "model.layers.{}.self_attn.o_proj",
        "transformer.h.{}.attn.c_proj",
        "blk.{}.attn_output",
    ),
    "blocks.{}.mlp_norm": ("model.layers.{}.post_attention_layernorm", "transformer.h.{}.ln_2", "blk.{}.ffn_norm"),
    "blocks.{}.mlp.gate": ("model.layers.{}.mlp.gate_proj", None, "blk.{}.ffn_gate"),
    "blocks.{}.mlp.up": ("model.layers.{}.mlp.up_proj", "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"),
    "blocks.{}.mlp.down": ("model.layers.{}.mlp.down_proj", "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"),
    "final_norm": ("model.norm", "transformer.ln_f", "output_norm"),
    "head": ("lm_head", "lm_head", "output"),
}
STACKED = ("query", "key", "value")  # in GPT-2's files


class Family(NamedTuple):
    """How one family of models is written: its place in the tables, and what all of its models share."""

    column: int
    switches: dict[str, object]  # our switches that make the family
    fixed: dict[str, object]  # keys of config.json that we write, with the only value that we have

    def keys(self) -> dict[str, str]:
        """Our config's names -> the keys on disk."""
        return {ours: theirs[self.column] for ours, theirs in KEYS.items() if theirs[self.column]}


ROTARY = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
LLAMA = Family(0, ROTARY, {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"})
GPT2 = Family(
    1,
    {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True},
    {"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"},
)
GGUF = Family(2, ROTARY, {})
FAMILIES = {"llama": LLAMA, "gpt2": GPT2}
DEFAULTS = {"llama": {"attention_bias": False, "attention_dropout": 0.0}, "gpt2": {"n_inner": None}}
# What changes the computation in a way that we don't have; left out or None means: as usual.
USUAL = {
    "hidden_act": "silu",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
# Buffers that older files hold beside the weights: the causal mask, the rotary frequencies.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def family_of(config: GPTConfig) -> str:
    """The family whose names a model is written in: "llama", "gpt2" or, for any other mix of switches, "minigpt"."""
    for name, family in FAMILIES.items():
        fits = all(getattr(config, switch) == value for switch, value in family.switches.items())
        if fits and (name == "llama" or config.n_kv_heads == config.n_heads):
            return name
    return "minigpt"


def config_to_disk(config: GPTConfig, dtype: str) -> dict:
    """The content of config.json.

    >>> config_to_disk(GPTConfig.toy(), "float32")["num_hidden_layers"]
    4
    """
    kind = family_of(config)
    if kind == "minigpt":
        note = "minigpt.load opens this model; transformers has no architecture of these switches"
        return {"model_type": kind, "note": note, "dtype": dtype, **asdict(config)}
    content = {"model_type": kind, "dtype": dtype, **FAMILIES[kind].fixed}
    content |= {theirs: getattr(config, ours) for ours, theirs in FAMILIES[kind].keys().items()}
    if kind == "llama":
        return content | {"mlp_bias": config.bias, "head_dim": config.d_head}
    return content | {"attn_pdrop": 0.0, "embd_pdrop": config.dropout}


def config_from_disk(content: dict) -> GPTConfig:
    """The model's shape from config.json. ValueError for what we don't have, by name, or for a key that is missing."""
    kind = content.get("model_type")
    if kind not in ("minigpt", *FAMILIES):
        raise ValueError(f"config.json: model_type {kind!r} is not one that we have: {', '.join(FAMILIES)}, minigpt")
    try:
        if kind == "minigpt":
            return GPTConfig(**{name: content[name] for name in GPTConfig.__dataclass_fields__})
        content = DEFAULTS[kind] | {"tie_word_embeddings": kind == "gpt2"} | content
        if kind == "llama":
            rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
            content.setdefault("rope_theta", rope.get("rope_theta", 10_000.0))
            _refuse("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
            _refuse("mlp_bias", content.get("mlp_bias", False), content["attention_bias"])
            content.setdefault("num_key_value_heads", content["num_attention_heads"])
        config = GPTConfig(
            **FAMILIES[kind].switches | {ours: content[theirs] for ours, theirs in FAMILIES[kind].keys().items()}
        )
        _refuse("head_dim", content.get("head_dim") or config.d_head, config.d_head)
    except KeyError as missing:
        raise ValueError(f"config.json of a {kind} model: the key {missing} is missing") from missing
    for key, usual in USUAL.items():
        if content.get(key) is not None:
            _refuse(key, content[key], usual)
    return config


def _refuse(key: str, value: object, have: object) -> None:
    if value != have:
        raise ValueError(f"config.json: {key} is {value!r}, and what we have is {have!r}")


def name_on_disk(name: str, kind: str) -> str:
    """The name in a model file of one of our parameters.

    >>> name_on_disk("blocks.2.mlp.up.weight", "llama")
    'model.layers.2.mlp.up_proj.weight'
    """
    if kind == "minigpt":
        return name
    module, _, parameter = name.rpartition(".")
    layer = re.search(r"\d+", module)
    pattern = NAMES[re.sub(r"\d+", "{}", module)][(FAMILIES | {"gguf": GGUF})[kind].column]
    return f"{pattern.format(layer and layer.group())}.{parameter}"


def weights_to_disk(weights: Mapping[str, Tensor], config: GPTConfig, kind: str | None = None) -> dict[str, Tensor]:
    """A state dict as model.safetensors holds it. A tied head is there once, as the embedding."""
    kind, parts = kind or family_of(config), {}
    for name, tensor in weights.items():
        if not (name == "head.weight" and config.tie_embeddings):
            parts.setdefault(name_on_disk(name, kind), []).append(tensor)
    stored = {name: torch.cat(tensors) if len(tensors) > 1 else tensors[0] for name, tensors in parts.items()}
    return {name: tensor.mT if turned(name, tensor, kind) else tensor for name, tensor in stored.items()}


def turned(name: str, tensor: Tensor, kind: str) -> bool:
    """GPT-2 keeps the layers' matrices as (in, out)."""
    return kind == "gpt2" and tensor.ndim == 2 and ".h." in name


def weights_from_disk(
    stored: Mapping[str, Callable[[], Tensor]],
    expected: Mapping[str, Tensor],
    config: GPTConfig,
    kind: str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """What model files hold, in our names: stored reads a tensor by its name there, expected has ours on "meta".

    dtype: None keeps what is stored, but half precision becomes fp32. The tensors are read and copied one by one, so
    that memory never holds much more than the result. ValueError that names a tensor which is missing, misshapen, or
    nothing that this architecture has.
    """
    kind = kind or family_of(config)
    if kind == "gpt2":  # the published files leave the first part of the names out
        stored = {name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": read
                  for name, read in stored.items()}  # fmt: skip
    wanted = weights_to_disk(expected, config, kind)  # what we would write is what we look for
    for name in wanted:
        _expect(name in stored, name, "is missing")
    for name in stored.keys() - wanted.keys():
        tied = config.tie_embeddings and name == name_on_disk("head.weight", kind)
        _expect(tied or name.endswith(NO_WEIGHTS), name, f"has no place in the architecture {kind}")
    found = {}
    for name, like in expected.items():
        if name == "head.weight" and config.tie_embeddings:
            found[name] = found["token_embedding.weight"]
            continue
        on_disk = name_on_disk(name, kind)
        tensor = stored[on_disk]()
        shape, wanted_shape = tuple(tensor.shape), tuple(wanted[on_disk].shape)
        _expect(shape == wanted_shape, on_disk, f"has shape {shape}, and the config asks for {wanted_shape}")
        tensor = tensor.mT if turned(on_disk, tensor, kind) else tensor
        part = name.split(".")[-2]
        if kind == "gpt2" and part in STACKED:
            tensor = tensor.chunk(3)[STACKED.index(part)]
        # Matrices lie column by column in memory: a product with one token's vector reads them a third faster so.
        place = torch.empty(like.shape[::-1], dtype=dtype or torch.promote_types(tensor.dtype, torch.float32))
        found[name] = place.mT if place.ndim == 2 else place
        found[name].copy_(tensor)
    return found


def _expect(right: bool, name: str, problem: str) -> None:
    if not right:
        raise ValueError(f"the tensor {name} {problem}")
