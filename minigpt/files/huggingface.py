"""Names and shapes on disk <-> ours: what makes a run directory a Hugging Face model directory.

A model of Llama's or GPT-2's architecture is written in that family's names, which `transformers` opens; any other mix
of switches is written in our own names, for us alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ..config import GPTConfig


@dataclass(frozen=True)
class Family:
    """How one family of models is written on disk."""

    name: str
    switches: dict[str, object]  # our switches that make the family
    keys: dict[str, str]  # our names in the config -> theirs
    modules: dict[str, str]  # our modules -> theirs; {} is the number of a block
    fixed: dict[str, object] = field(default_factory=dict)  # keys of config.json that have only one value for us


LLAMA = Family(
    name="llama",
    switches={"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"},
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
    modules={
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
    fixed={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
)
GPT2 = Family(
    name="gpt2",
    switches={"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True},
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
    modules={  # one matrix of theirs holds query, key and value side by side
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "blocks.{}.attention_norm": "transformer.h.{}.ln_1",
        "blocks.{}.attention.query": "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.key": "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.value": "transformer.h.{}.attn.c_attn",
        "blocks.{}.attention.output": "transformer.h.{}.attn.c_proj",
        "blocks.{}.mlp_norm": "transformer.h.{}.ln_2",
        "blocks.{}.mlp.up": "transformer.h.{}.mlp.c_fc",
        "blocks.{}.mlp.down": "transformer.h.{}.mlp.c_proj",
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
    fixed={"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "attn_pdrop": 0.0},
)
FAMILIES = {"llama": LLAMA, "gpt2": GPT2}
OURS = Family(name="minigpt", switches={}, keys={}, modules={})  # any other mix of switches, in our own names

# Settings that would change the computation; a file that leaves one out, or holds null, means this value.
SUPPORTED = {
    "hidden_act": "silu",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
# Not weights: older files also hold the causal mask and the rotary frequencies.
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
EARLIER = "saved by an earlier version, which kept query, key and value in one matrix: train the model again"


def family_of(config: GPTConfig) -> Family:
    """The family in whose names a model is written: Llama's, GPT-2's or, for any other mix of switches, ours.

    >>> family_of(GPTConfig.toy()).name
    'llama'
    """
    for family in FAMILIES.values():
        fits = all(getattr(config, switch) == value for switch, value in family.switches.items())
        if fits and ("n_kv_heads" in family.keys or config.n_kv_heads == config.n_heads):
            return family
    return OURS


# The config


def config_to_disk(config: GPTConfig, dtype: str) -> dict:
    """The content of config.json.

    >>> config_to_disk(GPTConfig.toy(), "float32")["num_hidden_layers"]
    4
    """
    family = family_of(config)
    if family is OURS:
        note = "minigpt.load opens this model; transformers has no architecture of these switches"
        return {"model_type": "minigpt", "note": note, "dtype": dtype, **asdict(config)}
    content = {"model_type": family.name, "dtype": dtype, **family.fixed}
    content |= {theirs: getattr(config, ours) for ours, theirs in family.keys.items()}
    if family is LLAMA:
        content |= {"mlp_bias": config.bias, "head_dim": config.d_head}
    else:
        content["embd_pdrop"] = config.dropout
    return content


def config_from_disk(content: dict) -> GPTConfig:
    """The model's shape from config.json. ValueError that names an unsupported setting or a missing key."""
    kind = content.get("model_type")
    if kind not in ("minigpt", *FAMILIES):
        raise ValueError(f"config.json: model_type {kind!r} is not supported: use {', '.join(FAMILIES)} or minigpt")
    try:
        if kind == "minigpt":
            if "kernels" in content:
                raise ValueError(f"config.json: {EARLIER}")
            return GPTConfig(**{name: content[name] for name in GPTConfig.__dataclass_fields__})
        config = _llama_config(content) if kind == "llama" else _gpt2_config(content)
    except KeyError as missing:
        raise ValueError(f"config.json of a {kind} model: the key {missing} is missing") from missing
    for key, value in SUPPORTED.items():
        if content.get(key) is not None:
            _require(key, content[key], value)
    return config


def _llama_config(content: dict) -> GPTConfig:
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    defaults = {
        "num_key_value_heads": content["num_attention_heads"],
        "rope_theta": rope.get("rope_theta", 10_000.0),
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    config = _shape(LLAMA, defaults | content)
    _require("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
    _require("mlp_bias", content.get("mlp_bias", False), config.bias)
    _require("head_dim", content.get("head_dim") or config.d_head, config.d_head)
    return config


def _gpt2_config(content: dict) -> GPTConfig:
    return _shape(GPT2, {"n_inner": None, "tie_word_embeddings": True} | content)


def _shape(family: Family, content: dict) -> GPTConfig:
    return GPTConfig(**family.switches, **{ours: content[theirs] for ours, theirs in family.keys.items()})


def _require(key: str, value: object, supported: object) -> None:
    if value != supported:
        raise ValueError(f"config.json: {key} is {value!r}; only {supported!r} is supported")


# The weights


def names_on_disk(names: Iterable[str], config: GPTConfig, family: Family) -> dict[str, list[str]]:
    """The name of each tensor on disk -> our parameters in it. A tied head is left out: it is the embedding.

    >>> names_on_disk(["blocks.1.mlp.up.weight"], GPTConfig.toy(), LLAMA)
    {'model.layers.1.mlp.up_proj.weight': ['blocks.1.mlp.up.weight']}
    """
    modules = {}
    for layer in range(config.n_layers):
        modules |= {ours.format(layer): theirs.format(layer) for ours, theirs in family.modules.items()}
    found = {}
    for name in names:
        module, kind = name.rsplit(".", 1)  # "blocks.1.mlp.up" and "weight" or "bias"
        if not (module == "head" and config.tie_embeddings):
            found.setdefault(f"{modules.get(module, module)}.{kind}", []).append(name)
    return found


def weights_to_disk(weights: Mapping[str, Tensor], config: GPTConfig, family: Family) -> dict[str, Tensor]:
    """A state dict as model.safetensors holds it."""
    stored = {}
    for name, ours in names_on_disk(weights, config, family).items():
        parts = [weights[one] for one in ours]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        stored[name] = _turn(whole, name, family)
    return stored


def weights_from_disk(
    stored: Mapping[str, Callable[[], Tensor]],
    expected: Mapping[str, Tensor],
    config: GPTConfig,
    family: Family,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """A state dict from model files: `stored` reads a tensor by its name there, `expected` has our names, on "meta".

    dtype: None keeps what is stored, but half precision becomes fp32. The tensors are read one by one, so that memory
    never holds much more than the result. ValueError that names a tensor which is missing, misshapen or unknown.
    """
    if family is GPT2:  # the published files leave out the first part of the names
        whole = ("transformer.", "lm_head.")
        stored = {n if n.startswith(whole) else f"transformer.{n}": read for n, read in stored.items()}

    # is everything there, and nothing else?
    wanted = names_on_disk(expected, config, family)
    for name in wanted.keys() - stored.keys():
        raise ValueError(f"the tensor {name} is missing")
    tied_head = family.modules.get("head", "head") + ".weight" if config.tie_embeddings else None
    for name in stored.keys() - wanted.keys() - {tied_head}:
        if not name.endswith(BUFFERS):
            raise ValueError(f"the tensor {name} has no place in the architecture {family.name}")

    # read
    weights = {}
    for name, ours in wanted.items():
        tensor = stored[name]()
        rows = [len(expected[one]) for one in ours]
        whole = expected[ours[0]].new_empty(sum(rows), *expected[ours[0]].shape[1:])
        shape, right = tuple(tensor.shape), tuple(_turn(whole, name, family).shape)
        if shape != right:
            raise ValueError(f"the tensor {name} has shape {shape}, and the config asks for {right}")
        parts = _turn(tensor, name, family).split(rows)
        wide = dtype or torch.promote_types(tensor.dtype, torch.float32)
        weights |= {one: _by_columns(part, wide) for one, part in zip(ours, parts)}
    if config.tie_embeddings:
        weights["head.weight"] = weights["token_embedding.weight"]
    return weights


def _by_columns(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy whose matrices lie column by column in memory: a product with one vector reads them a third faster."""
    return torch.empty(tensor.t().shape, dtype=dtype).t().copy_(tensor)


def _turn(tensor: Tensor, name: str, family: Family) -> Tensor:
    """GPT-2's files hold the matrices of its blocks as (in, out): transpose these, either way."""
    return tensor.mT if family is GPT2 and ".h." in name and tensor.ndim == 2 else tensor
