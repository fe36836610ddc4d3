"""GGUF files of the llama architecture, as llama.cpp writes them: weights, often quantised, and tokenizer in one file.

PyPI's `gguf` undoes the quantisation. The file is read here, so that one that lies about its sizes takes no time.
"""

import math
import struct
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import GPTConfig
from ..tokenizer import SPLIT, Tokenizer
from .huggingface import Family, shape_from_disk
from .reading import Stored
from .tokenizer_json import SPLIT_DIGITS, from_vocabulary

SPLITS = {
    "gpt-2": SPLIT,
    "smollm": SPLIT_DIGITS,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
}
NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # GGUF's types, as struct has them
TEXT, ARRAY = 8, 9
# What would change the computation or the ids, with its only value for us, and the sizes of a head.
ONLY = {"rope.scaling.factor": 1.0, "rope.scale_linear": 1.0, "expert_count": 0}
HEAD_SIZES = ("rope.dimension_count", "attention.key_length", "attention.value_length")
# What changes nothing then. Any other field of the architecture might, so it is refused.
IDLE = ("expert_used_count", "rope.scaling.type", "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "tensor_data_layout")  # fmt: skip
# What else is read, by the last part of its key, and its kind.
KINDS = {
    "architecture": "str", "model": "str", "pre": "str", "chat_template": "str", "add_bos_token": "bool",
    "add_eos_token": "bool", "tokens": "list of str", "merges": "list of str", "token_type": "list of int",
}  # fmt: skip
ORDINARY, USER_DEFINED, UNUSED = 1, 4, 5  # token types; all others are special in one way or another
LLAMA = Family(
    name="llama in GGUF",
    switches={"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"},
    keys={
        "vocab_size": "llama.vocab_size", "context_length": "llama.context_length", "n_layers": "llama.block_count",
        "n_heads": "llama.attention.head_count", "n_kv_heads": "llama.attention.head_count_kv",
        "d_model": "llama.embedding_length", "d_ff": "llama.feed_forward_length",
        "norm_eps": "llama.attention.layer_norm_rms_epsilon", "rope_theta": "llama.rope.freq_base",
        "bias": "bias", "tie_embeddings": "tied",  # no keys of the file: the names of its tensors tell these two
    },
    modules={
        "token_embedding": "token_embd", "blocks": "blk", "attention_norm": "attn_norm", "mlp_norm": "ffn_norm",
        "attention.query": "attn_q", "attention.key": "attn_k", "attention.value": "attn_v",
        "attention.output": "attn_output", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
        "final_norm": "output_norm", "head": "output",
    },
    defaults={"llama.rope.freq_base": 10_000.0},
)  # fmt: skip


def read(path: Path) -> tuple[GPTConfig, Family, dict[str, Stored], Tokenizer]:
    """Open a GGUF file: the model's shape, its family, its tensors by name, and the tokenizer.

    ValueError that names an unsupported architecture, tokenizer or scaling of rotary frequencies.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as problem:
        raise ValueError("to open a GGUF file, install the package gguf: pip install gguf") from problem

    # what the file says
    file = _Bytes(path)
    if file.take(4) != b"GGUF" or file.number("I") not in (2, 3):
        raise ValueError("not a GGUF file of version 2 or 3")
    n_tensors, n_fields = file.number("Q"), file.number("Q")
    fields = {}
    for _ in range(n_fields):
        key, value = file.text(), file.value(file.number("I"))
        kind = f"list of {type(value[0]).__name__}" if isinstance(value, list) and value else type(value).__name__
        right = KINDS.get(key.rpartition(".")[2], kind)
        if key in fields or not right.startswith(kind):  # an empty list is of any kind
            raise ValueError(f"{key} is {value!r:.40}; it must stand there once, as {right}")
        fields[key] = value

    # where its tensors lie
    found = {}
    for _ in range(n_tensors):
        name, shape = file.text(), [file.number("Q") for _ in range(min(file.number("I"), 5))][::-1]
        found[name] = shape, GGMLQuantizationType(file.number("I")), file.number("Q")
    alignment = fields.get("general.alignment", 32)
    if len(found) < n_tensors or type(alignment) is not int or alignment < 1:
        raise ValueError(f"two tensors of one name, or alignment={alignment!r:.40}")
    begin = -(-file.at // alignment) * alignment

    # their bytes
    config, stored = _config(fields, set(found)), {}
    for name, (shape, type_, offset) in found.items():
        per_block, size = GGML_QUANT_SIZES[type_]
        file.at, width = begin + offset, shape[-1] // per_block * size if shape else 0
        rows = np.frombuffer(file.take(math.prod(shape[:-1]) * width), np.uint8).reshape(-1, max(width, 1))
        stored[name] = Stored(tuple(shape), partial(_read_tensor, name, rows, shape, type_, config))
        file.left -= rows.size
        if file.left < 0:
            raise ValueError(f"the tensor {name} shares its bytes with another")
    return config, LLAMA, stored, _tokenizer(fields)


class _Bytes:
    """A file from which numbers and texts are taken, one after the other; never more than it holds."""

    def __init__(self, path: Path):
        self.data = memoryview(np.memmap(path, mode="r"))
        self.at, self.left = 0, len(self.data)

    def take(self, count: int) -> memoryview:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("damaged or cut short")
        return self.data[self.at - count : self.at]

    def number(self, letter: str) -> float:
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def text(self) -> str:
        return bytes(self.take(self.number("Q"))).decode()

    def value(self, kind: int) -> object:
        """A number, a text, or an array of either; kind is GGUF's number for its type."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind == TEXT:
            return [self.text() for _ in range(count)]
        if kind == ARRAY:
            raise ValueError("arrays of arrays are not supported")
        return np.frombuffer(self.take(count * struct.calcsize(NUMBERS[kind])), "<" + NUMBERS[kind]).tolist()


def _config(fields: dict, names: set[str]) -> GPTConfig:
    """The model's shape from a file's fields and the names of its tensors."""
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"the architecture {kind!r} is not supported in GGUF; this one is: llama")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in names:
        raise ValueError(f"rotary frequencies are scaled ({scaling}, rope_freqs); only unscaled ones are supported")

    # written in fp32: .00001 without the digits that rounding adds
    found = {"llama.vocab_size": len(fields["tokenizer.ggml.tokens"])} | fields
    found = {key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in found.items()}
    told = {"bias": "blk.0.attn_q.bias" in names, "tied": "output.weight" not in names}
    config = shape_from_disk(LLAMA, found | told, "GGUF")

    # what we can't compute otherwise
    only = ONLY | dict.fromkeys(HEAD_SIZES, config.d_head)
    read = {*LLAMA.keys.values(), *(f"llama.{key}" for key in IDLE)}
    for key in [key for key in fields if key.startswith("llama.") and key not in read]:
        value = only.get(key.removeprefix("llama."))
        if type(fields[key]) is not type(value) or fields[key] != value:
            raise ValueError(f"{key} is {fields[key]!r:.40}; only {value} is supported")
    return config


def _tokenizer(fields: dict) -> Tokenizer:
    """The tokenizer from a file's fields."""
    kind, split = (fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2" or split not in SPLITS:
        raise ValueError(f"the tokenizer {kind!r} ({split!r}) is not supported; these are: gpt2 ({', '.join(SPLITS)})")

    # tokens by their types, and what the ids of some tokens mean
    names, types = (fields[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    if len(types) != len(names) or USER_DEFINED in types:
        raise ValueError("tokens and token_type must be lists of one length, with no token that a user has defined")
    special = {name: i for i, (name, type_) in enumerate(zip(names, types)) if type_ not in (ORDINARY, UNUSED)}
    ids = dict.fromkeys(("bos", "eos", "padding", "eot", "eom"))
    for key in [key for key in fields if key.endswith("_token_id")]:
        if type(fields[key]) is not int or fields[key] not in special.values():
            raise ValueError(f"{key} is {fields[key]!r:.40}; must be the id of a special token")
        ids[key.removeprefix("tokenizer.ggml.").removesuffix("_token_id")] = fields[key]
    roles = {"bos_token": ids["bos"], "pad_token": ids["padding"]}
    begins = fields.get("tokenizer.ggml.add_bos_token", split == "llama-bpe")  # llama.cpp's default, by the split
    if ids["eos"] is None or (begins and ids["bos"] is None) or fields.get("tokenizer.ggml.add_eos_token"):
        raise ValueError("eos_token_id or bos_token_id is missing, or add_eos_token puts an end after each text")
    return from_vocabulary(
        {name: i for i, (name, type_) in enumerate(zip(names, types)) if type_ == ORDINARY},
        [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]],
        special,
        whole_words=split == "llama-bpe",  # as llama.cpp has it
        split=SPLITS[split],
        end=names[ids["eos"]],
        start=[ids["bos"]] if begins else [],
        end_ids=[ids[role] for role in ("eot", "eom") if ids[role] is not None],
        chat_template=fields.get("tokenizer.chat_template"),
        names={role: names[i] for role, i in roles.items() if i is not None},
    )


def _read_tensor(name: str, rows: np.ndarray, shape: list[int], type_: int, config: GPTConfig) -> Tensor:
    """One tensor in fp32, its rows in our order.

    Rotary turns dimension i of a head together with i + D/2; a GGUF file has such a pair in neighbouring rows.
    """
    from gguf import dequantize

    rows = torch.from_numpy(np.require(dequantize(rows, type_), requirements="W")).view(shape)
    if ".attn_q." in name or ".attn_k." in name:
        pairs = rows.unflatten(0, (-1, config.d_head // 2, 2))
        rows = pairs.transpose(1, 2).reshape(rows.shape)
    return rows
