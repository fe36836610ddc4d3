"""Names and shapes on disk <-> ours: what makes a run directory a Hugging Face model directory.

A model of Llama's or GPT-2's architecture is written in that family's names, which `transformers` opens; any other mix
of switches is written in our own names, for us alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import GPTConfig
from .reading import Stored


@dataclass(frozen=True)
class Family:
    """How one family of models is written on disk."""

    name: str
    switches: dict[str, object]  # our switches that make the family
    keys: dict[str, str]  # our names in the config -> theirs
    modules: dict[str, str]  # our modules -> theirs; those inside of a block without "blocks.N."
    fixed: dict[str, object] = field(default_factory=dict)  # keys of config.json that have only one value for us
    defaults: dict[str, object] = field(default_factory=dict)  # what a key that is left out means


LLAMA = Family(
    name="llama",
    switches={"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"},
    keys={
        "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "d_model": "hidden_size",
        "d_ff": "intermediate_size", "norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
        "tie_embeddings": "tie_word_embeddings", "bias": "attention_bias", "dropout": "attention_dropout",
    },
    modules={
        "token_embedding": "model.embed_tokens", "blocks": "model.layers", "final_norm": "model.norm",
        "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "head": "lm_head",
        "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj",
    },
    fixed={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    defaults={"num_key_value_heads": None, "rope_theta": 10_000.0, "tie_word_embeddings": False,
              "attention_bias": False, "attention_dropout": 0.0},
)  # fmt: skip
GPT2 = Family(
    name="gpt2",
    switches={"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True},
    keys={
        "vocab_size": "vocab_size", "context_length": "n_positions", "n_layers": "n_layer", "n_heads": "n_head",
        "d_model": "n_embd", "d_ff": "n_inner", "norm_eps": "layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings", "dropout": "resid_pdrop",
    },
    modules={  # one matrix of theirs, c_attn, holds query, key and value side by side
        "token_embedding": "transformer.wte", "position_embedding": "transformer.wpe", "blocks": "transformer.h",
        "attention_norm": "ln_1", "mlp_norm": "ln_2", "attention.query": "attn.c_attn", "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn", "attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj", "final_norm": "transformer.ln_f", "head": "lm_head",
    },
    fixed={"architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "attn_pdrop": 0.0},
    defaults={"n_inner": None, "tie_word_embeddings": True},
)  # fmt: skip
NOTE = "minigpt.load opens this model; transformers has no architecture of these switches"
OURS = Family("minigpt", {}, {name: name for name in GPTConfig.__dataclass_fields__}, {}, fixed={"note": NOTE})
FAMILIES = {family.name: family for family in (LLAMA, GPT2, OURS)}

# Settings that would change the computation; a file that leaves one out, or holds null, means this value.
SUPPORTED = {
    "hidden_act": "silu", "activation_function": "gelu_new", "scale_attn_weights": True, "quantization_config": None,
    "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "partial_rotary_factor": 1.0,
}  # fmt: skip
# What a number in a file may be: its type, the least and the greatest value.
SIZE, COUNT, RATE, FLAG = (int, 1, 2**24), (int, 1, 2**14), (float, 0, 1), (bool, False, True)
RANGES = {
    "vocab_size": SIZE, "context_length": SIZE, "d_model": SIZE, "d_ff": SIZE,
    "n_layers": COUNT, "n_heads": COUNT, "n_kv_heads": COUNT,
    "norm_eps": RATE, "dropout": RATE, "rope_theta": (float, 1, 1e12), "bias": FLAG, "tie_embeddings": FLAG,
}  # fmt: skip
# Not weights: older files also hold the causal mask and the rotary frequencies.
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def family_of(config: GPTConfig) -> Family:
    """The family in whose names a model is written: Llama's, GPT-2's or, for any other mix of switches, ours."""
    for family in FAMILIES.values():
        fits = all(getattr(config, switch) == value for switch, value in family.switches.items())
        if fits and ("n_kv_heads" in family.keys or config.n_kv_heads == config.n_heads):
            return family


# The config


def config_to_disk(config: GPTConfig, dtype: str) -> dict:
    """The content of config.json."""
    family = family_of(config)
    content = {"model_type": family.name, "dtype": dtype, **family.fixed}
    content |= {theirs: getattr(config, ours) for ours, theirs in family.keys.items()}
    if family is LLAMA:
        content |= {"mlp_bias": config.bias, "head_dim": config.d_head}
    if family is GPT2:
        content["embd_pdrop"] = config.dropout
    return content


def config_from_disk(content: dict) -> GPTConfig:
    """The model's shape from config.json. ValueError that names an unsupported setting or a missing key."""
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"config.json: model_type {kind!r:.40} is not supported, only {', '.join(FAMILIES)}")

    # the numbers; those of rotary angles may stand in three places
    rope = _rotary(content)
    base = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    config = shape_from_disk(FAMILIES[kind], content | base, f"config.json of a {kind} model")

    # what we can't compute otherwise
    said, required = {"mlp_bias": False} | content, dict(SUPPORTED)
    if kind == "llama":
        said |= rope
        required |= {"mlp_bias": config.bias, "head_dim": config.d_head, "rope_type": "default"}
        required |= dict.fromkeys(rope.keys() - {"rope_type", "rope_theta"})
    if kind == "gpt2":  # other names of its numbers, which `transformers` would obey
        required |= {"num_hidden_layers": config.n_layers, "num_attention_heads": config.n_heads}
        required |= {"hidden_size": config.d_model, "max_position_embeddings": config.context_length}
    for key, value in required.items():
        if said.get(key) not in (None, value):
            raise ValueError(f"config.json: {key} is {said[key]!r:.80}; only {value!r} is supported")
    return config


def _rotary(content: dict) -> dict:
    """What a config says of rotary angles. ValueError when two places disagree."""
    found = {}
    base = {"rope_theta": content.get("rope_theta")}
    for place in (base, content.get("rope_parameters"), content.get("rope_scaling")):
        if not isinstance(place, dict | None):
            raise ValueError(f"config.json: the rotary settings are {place!r:.80}; they must be an object with keys")
        for key, value in (place or {}).items():
            key = {"type": "rope_type"}.get(key, key)
            if value is not None and found.setdefault(key, value) != value:
                raise ValueError(f"config.json: {key} is {found[key]!r:.40} in one place and {value!r:.40} in another")
    return found


def shape_from_disk(family: Family, content: dict, where: str) -> GPTConfig:
    """A config from the keys of a family. ValueError that names the key whose value is missing or out of range."""
    shape = {}
    for ours, theirs in family.keys.items():
        value = content[theirs] if theirs in content else family.defaults.get(theirs, KeyError)
        if value is KeyError:
            raise ValueError(f"{where}: the key {theirs!r} is missing")
        if ours in RANGES and not (value is None and family.defaults.get(theirs, 0) is None):
            kind, least, most = RANGES[ours]
            if type(value) not in (kind, int if kind is float else kind) or not least <= value <= most:
                what = {int: "a whole number", float: "a number", bool: "a truth value"}[kind]
                raise ValueError(f"{where}: {theirs} is {value!r:.40}; it must be {what} from {least} to {most}")
        shape[ours] = value
    return GPTConfig(**family.switches | shape)


# The weights


def names_on_disk(names: Iterable[str], config: GPTConfig, family: Family) -> dict[str, list[str]]:
    """The name of each tensor on disk -> our parameters in it. A tied head is left out: it is the embedding."""
    found = {}
    for name in names:
        module, kind = name.rsplit(".", 1)  # "blocks.1.mlp.up" and "weight" or "bias"
        if module == "head" and config.tie_embeddings:
            continue
        if module.startswith("blocks."):
            _, layer, part = module.split(".", 2)
            theirs = f"{family.modules.get('blocks', 'blocks')}.{layer}.{family.modules.get(part, part)}"
        else:
            theirs = family.modules.get(module, module)
        found.setdefault(f"{theirs}.{kind}", []).append(name)
    return found


def weights_to_disk(weights: Mapping[str, Tensor], config: GPTConfig, family: Family) -> dict[str, Tensor]:
    """A state dict as model.safetensors holds it."""
    names = names_on_disk(weights, config, family)
    return {name: _turn(torch.cat([weights[one] for one in ours]), name, family) for name, ours in names.items()}


def weights_from_disk(
    stored: dict[str, Stored], expected: dict[str, Tensor], config: GPTConfig, family: Family, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """A state dict from the tensors of model files; `expected` has our names, on "meta".

    dtype: None keeps what is stored, but half precision becomes fp32. The tensors are read one by one, so that memory
    never holds much more than the result. ValueError that names a tensor which is missing, misshapen or unknown.
    """
    if family is GPT2:  # the published files leave out the first part of the names
        whole = ("transformer.", "lm_head.")
        names = {n: n if n.startswith(whole) else f"transformer.{n}" for n in stored}
        if len({*names.values()}) < len(names):
            raise ValueError("a tensor is there twice, with and without transformer. before its name")
        stored = {names[n]: tensor for n, tensor in stored.items()}

    # is everything there, and nothing else?
    wanted = names_on_disk(expected, config, family)
    tied_head = family.modules.get("head", "head") + ".weight" if config.tie_embeddings else None
    for name in wanted.keys() - stored.keys():
        raise ValueError(f"the tensor {name} is missing")
    for name in stored.keys() - wanted.keys() - {tied_head}:
        if not name.endswith(BUFFERS):
            raise ValueError(f"the tensor {name} has no place in the architecture {family.name}")
    for name, ours in wanted.items():
        height = sum(len(expected[one]) for one in ours)
        whole = expected[ours[0]].new_empty(height, *expected[ours[0]].shape[1:])  # torch.cat loads the compiler
        right = tuple(_turn(whole, name, family).shape)
        if stored[name].shape != right:
            raise ValueError(f"the tensor {name} has shape {stored[name].shape}, and the config asks for {right}")

    # read
    weights = {}
    for name, ours in wanted.items():
        tensor = stored[name].read()
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize == 1:
            raise ValueError(f"the tensor {name} is of {tensor.dtype}; only numbers of 16 to 64 bits are supported")
        parts = _turn(tensor, name, family).split([len(expected[one]) for one in ours])
        wide = dtype or torch.promote_types(tensor.dtype, torch.float32)
        weights |= {one: _laid_out(part, wide) for one, part in zip(ours, parts)}
    if len({tensor.dtype for tensor in weights.values()}) > 1:  # some were in double precision
        weights = {one: _laid_out(tensor, torch.float64) for one, tensor in weights.items()}
    if config.tie_embeddings:
        head = weights["head.weight"] = weights["token_embedding.weight"]
        if tied_head in stored and not torch.equal(stored[tied_head].read().to(head.dtype), head):
            raise ValueError(f"the tensor {tied_head} is not the embedding, and the config says that they are one")
    return weights


def _laid_out(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy whose matrices lie as a product with one vector reads them fastest: fp32 by columns, half by rows."""
    by_columns = torch.empty(tensor.t().shape, dtype=dtype).t()
    return (by_columns if dtype.itemsize > 2 else by_columns.contiguous()).copy_(tensor)


def _turn(tensor: Tensor, name: str, family: Family) -> Tensor:
    """GPT-2's files hold the matrices of its blocks as (in, out): transpose these, either way."""
    return tensor.mT if family is GPT2 and ".h." in name and tensor.ndim == 2 else tensor
