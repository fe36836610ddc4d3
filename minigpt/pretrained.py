"""Names and shapes on disk <-> ours: what makes a run directory a Hugging Face model directory.

A model of Llama's or GPT-2's architecture is written in that family's names, which `transformers` opens; any other mix
of switches is written in our own, for us alone.
"""

import re
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor

from .config import GPTConfig


class Family(NamedTuple):
    """How one family of models is written: what all of them share, their config's keys, their tensors' names."""

    switches: dict[str, object]  # our switches that make the family
    fixed: dict[str, object]  # keys of config.json with the only value that we have
    keys: dict[str, str]  # our config -> config.json
    names: dict[str, str]  # our modules -> theirs; {} is the layer's number


LLAMA = Family(
    switches={"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"},
    fixed={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    keys={
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "norm_eps": "rms_norm_eps",
        "rope_theta": "rope_theta",
        "tie_embeddings": "tie_word_embeddings",
        "bias": "attention_bias",
        "dropout": "attention_dropout",
    },
    names={
        "token_embedding": "model.embed_tokens",
        "blocks.{}.attention_norm": "model.layers.{}.input_layernorm",
        "blocks.{}.attention.query": "model.layers.{}.self_attn.q_proj",
        "blocks.{}.attention.key": "model.layers.{}.self_attn.k_proj",
        "blocks.{}.attention.value": "model.layers.{}.self_attn.v_proj",
        "blocks.{}.attention.output": "model.layers.{}.self_attn.o_proj",
        "blocks.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
        "blocks.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
        "blocks.{}.mlp.up": "model.layers.{}.mlp.up_proj",
        "blocks.{}.mlp.down": "model.layers.{}.mlp.down_proj",
        "final_norm": "model.norm",
        "head": "lm_head",
    },
)
GPT2 = Family(
    switches={"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True},
    fixed={"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"},
    keys={
        "vocab_size": "vocab_size",
        "context_length": "n_positions",
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "d_model": "n_embd",
        "d_ff": "n_inner",
        "norm_eps": "layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings",
        "dropout": "resid_pdrop",
    },
    names={
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "blocks.{}.attention_norm": "transformer.h.{}.ln_1",
        "blocks.{}.attention.query": "transformer.h.{}.attn.c_attn",  # query, key and value are one matrix there
        "blocks.{}.attention.key": "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.value": "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.output": "transformer.h.{}.attn.c_proj",
        "blocks.{}.mlp_norm": "transformer.h.{}.ln_2",
        "blocks.{}.mlp.up": "transformer.h.{}.mlp.c_fc",
        "blocks.{}.mlp.down": "transformer.h.{}.mlp.c_proj",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
)
FAMILIES = {"llama": LLAMA, "gpt2": GPT2}
DEFAULTS = {"llama": {"attention_bias": False, "attention_dropout": 0.0}, "gpt2": {"n_inner": None}}
THIRDS = ("query", "key", "value")


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
        return {"model_type": kind, "dtype": dtype, **asdict(config)}
    content = {"model_type": kind, "dtype": dtype, **FAMILIES[kind].fixed}
    content |= {theirs: getattr(config, ours) for ours, theirs in FAMILIES[kind].keys.items()}
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
            **FAMILIES[kind].switches | {ours: content[theirs] for ours, theirs in FAMILIES[kind].keys.items()}
        )
        _refuse("head_dim", content.get("head_dim") or config.d_head, config.d_head)
    except KeyError as missing:
        raise ValueError(f"config.json of a {kind} model: the key {missing} is missing") from missing
    for key in ("hidden_act", "activation_function"):
        if key in FAMILIES[kind].fixed:
            _refuse(key, content.get(key, FAMILIES[kind].fixed[key]), FAMILIES[kind].fixed[key])
    return config


def _refuse(key: str, value: object, have: object) -> None:
    if value != have:
        raise ValueError(f"config.json: {key} is {value!r}, and what we have is {have!r}")


def name_on_disk(name: str, config: GPTConfig) -> str:
    """The name in model.safetensors of one of our parameters.

    >>> name_on_disk("blocks.2.mlp.up.weight", GPTConfig.toy())
    'model.layers.2.mlp.up_proj.weight'
    """
    kind = family_of(config)
    if kind == "minigpt":
        return name
    module, _, parameter = name.rpartition(".")
    layer = re.search(r"\d+", module)
    pattern = FAMILIES[kind].names[re.sub(r"\d+", "{}", module)]
    return f"{pattern.format(layer and layer.group())}.{parameter}"


def weights_to_disk(weights: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """A state dict as model.safetensors holds it; a tied head is written once, as the embedding."""
    stored: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "head.weight" and config.tie_embeddings:
            continue
        if _is_transposed(name, config):
            tensor = tensor.mT if tensor.ndim == 2 else tensor
        on_disk = name_on_disk(name, config)
        stored[on_disk] = torch.cat([stored[on_disk], tensor], -1) if on_disk in stored else tensor
    return stored


def weights_from_disk(stored: dict[str, Tensor], expected: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """What model.safetensors holds, in our names. ValueError that names a missing or misshapen tensor."""
    if family_of(config) == "gpt2":  # the published files leave the first part of the names out
        stored = {name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": tensor
                  for name, tensor in stored.items()}  # fmt: skip
    found = {}
    for name, like in expected.items():
        source = "token_embedding.weight" if name == "head.weight" and config.tie_embeddings else name
        on_disk, shape = name_on_disk(source, config), list(like.shape)
        if on_disk not in stored:
            raise ValueError(f"model.safetensors: the tensor {on_disk} is missing")
        tensor = stored[on_disk]
        if _is_transposed(source, config):
            shape = shape[::-1]
            third = next((i for i, part in enumerate(THIRDS) if f"attention.{part}." in source), None)
            if third is not None:
                shape[-1] *= 3
        if list(tensor.shape) != shape:
            shapes = f"{tuple(tensor.shape)}, and config.json asks for {tuple(shape)}"
            raise ValueError(f"model.safetensors: the tensor {on_disk} has shape {shapes}")
        if _is_transposed(source, config):
            tensor = tensor if third is None else tensor.chunk(3, -1)[third]
            tensor = (tensor.mT if tensor.ndim == 2 else tensor).contiguous()
        found[name] = tensor
    return found


def _is_transposed(name: str, config: GPTConfig) -> bool:
    """GPT-2 keeps the layers' matrices as (in, out), the transpose of ours."""
    return family_of(config) == "gpt2" and (".attention." in name or ".mlp." in name)
