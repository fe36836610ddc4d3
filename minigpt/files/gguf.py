"""GGUF files of the llama architecture, as llama.cpp writes them: weights, often quantised, and tokenizer in one file.

PyPI's `gguf` reads the file and undoes the quantisation; what is left to us is names, and the order of some rows.
"""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import GPTConfig
from ..tokenizer import SPLIT, Tokenizer
from .huggingface import GGUF
from .tokenizer_json import SPLIT_DIGITS, from_vocabulary

SPLITS = {
    "gpt-2": SPLIT,
    "smollm": SPLIT_DIGITS,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
}
ORDINARY = 1  # the token type; all others are special in one way or another


def read(path: Path) -> tuple[GPTConfig, dict[str, Callable[[], Tensor]], Tokenizer]:
    """Open a GGUF file: the model's shape, by name a function that reads the tensor, and the tokenizer.

    ValueError for an architecture, a tokenizer or rotary frequencies that we don't have, by name.
    """
    try:
        from gguf import GGUFReader
    except ImportError as problem:
        raise ValueError("to open a GGUF file, install the package gguf: pip install gguf") from problem

    class Reader(GGUFReader):  # the file as a plain array: np.memmap's slices take twice as long, for 150,000 strings
        data = property(lambda self: self._data, lambda self, mapped: setattr(self, "_data", np.asarray(mapped)))

    try:
        reader = Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        reader.fields.clear()  # many small views of the file, heavier than what they show
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        config = config_of(fields, tensors.keys())
        heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}
        reads = {name: partial(_read_tensor, tensors[name], heads.get(name.split(".")[-2])) for name in tensors}
        return config, reads, tokenizer_of(fields)
    except KeyError as missing:
        raise ValueError(f"the key {missing} is missing") from missing
    except IndexError as problem:
        raise ValueError(f"damaged or cut short ({problem})") from problem


def config_of(fields: dict, names: Collection[str]) -> GPTConfig:
    """The model's shape from a file's fields and the names of its tensors."""
    kind = fields.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"the architecture {kind!r} is not one that we have in GGUF: llama")
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in names:
        raise ValueError(f"rotary frequencies are scaled ({scaling}, rope_freqs), and what we have is unscaled ones")
    found = {"llama.vocab_size": len(fields["tokenizer.ggml.tokens"]), "llama.rope.freq_base": 10_000.0} | fields
    shape = {ours: found[f"llama.{theirs}"] for ours, theirs in GGUF.keys().items()}
    shape |= {name: float(f"{shape[name]:.7g}") for name in ("norm_eps", "rope_theta")}  # they were written in fp32
    bias, tied = "blk.0.attn_q.bias" in names, "output.weight" not in names
    config = GPTConfig(**GGUF.switches | shape, bias=bias, tie_embeddings=tied)
    turned = found.get("llama.rope.dimension_count", config.d_head)
    if turned != config.d_head:
        raise ValueError(f"llama.rope.dimension_count is {turned}, and what we have is the whole head, {config.d_head}")
    return config


def tokenizer_of(fields: dict) -> Tokenizer:
    """The tokenizer from a file's fields."""
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in SPLITS:
        raise ValueError(f"the tokenizer {kind!r} ({split!r}) is not one that we have: gpt2 ({', '.join(SPLITS)})")
    names, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    start = fields.get("tokenizer.ggml.bos_token_id")
    return from_vocabulary(
        {name: i for i, (name, type_) in enumerate(zip(names, types)) if type_ == ORDINARY},
        [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]],
        {name: i for i, (name, type_) in enumerate(zip(names, types)) if type_ != ORDINARY},
        split=SPLITS[split],
        end=names[fields["tokenizer.ggml.eos_token_id"]],
        start=[start] if fields.get("tokenizer.ggml.add_bos_token") else [],
        chat_template=fields.get("tokenizer.chat_template"),
    )


def _read_tensor(tensor, heads: int | None) -> Tensor:
    """One tensor in fp32. heads: into how many heads its rows are divided, if rotary turns them.

    Rotary turns dimension i of a head together with i + D/2; a GGUF file has such a pair in neighbouring rows.
    """
    from gguf import dequantize

    try:
        rows = torch.from_numpy(np.require(dequantize(tensor.data, tensor.tensor_type), requirements="W"))
    except NotImplementedError as problem:
        raise ValueError(f"the tensor {tensor.name}: {problem}") from problem
    if heads is None:
        return rows
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(rows.shape)
