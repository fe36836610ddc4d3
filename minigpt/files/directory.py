"""A model and its tokenizer on disk: `save` writes a Hugging Face model directory, `load` opens one or a GGUF file.

Only safetensors and JSON: opening a file that somebody else made runs none of their code.
"""

from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..model import GPT
from ..tokenizer import END, Tokenizer
from . import gguf
from .huggingface import config_from_disk, config_to_disk, family_of, weights_from_disk, weights_to_disk
from .reading import read_json, read_tensors
from .tokenizer_json import from_json, to_json
from .writing import write_json, write_tensors, write_text


def save(directory: Path | str, model: GPT, tokenizer: Tokenizer | None) -> None:
    """Write model.safetensors, tokenizer.json, generation_config.json and, last, config.json into the directory.

    `transformers` opens it with AutoModelForCausalLM and AutoTokenizer when the architecture is Llama's or GPT-2's.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    config = config_to_disk(model.config, dtype)
    weights = weights_to_disk(model.state_dict(), model.config, family_of(model.config))
    write_tensors(directory / "model.safetensors", weights)

    if tokenizer is not None:
        ends = {
            "bos_token_id": tokenizer.start[0] if tokenizer.start else tokenizer.end_id,
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": tokenizer.end_id,
        }
        config |= ends
        write_text(directory / "tokenizer.json", to_json(tokenizer))
        write_json(directory / "tokenizer_config.json", _tokenizer_config(tokenizer, ends))
        write_json(directory / "generation_config.json", {**ends, "max_length": model.context_length})

    write_json(directory / "config.json", config)


def load(path: Path | str, dtype: torch.dtype | None = None) -> tuple[GPT, Tokenizer | None]:
    """Open a model directory or a GGUF file: the model in evaluation mode, and its tokenizer or None when it has none.

    A directory holds Hugging Face's files of a model of the Llama or the GPT-2 family, in one part or several. dtype:
    what the weights become; None keeps what is stored, but half precision becomes fp32. FileNotFoundError when a file
    is missing; ValueError when one can't be read, doesn't fit, or holds an architecture that is not supported. Each
    names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model")
    try:
        if path.is_file():
            config, stored, tokenizer = gguf.read(path)
            family = gguf.LLAMA
        else:
            config, stored, tokenizer = _read_directory(path)
            family = family_of(config)

        with torch.device("meta"), _NoDraws():  # shapes without memory: the file's weights come in their place
            model = GPT(config)
        weights = weights_from_disk(stored, model.state_dict(), config, family, dtype)
        model.load_state_dict(weights, assign=True)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from problem
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.eval(), tokenizer


def _tokenizer_config(tokenizer: Tokenizer, ends: dict[str, int]) -> dict:
    """The content of tokenizer_config.json: the special tokens by their text, and the chat template if there is one."""
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for key, token_id in ends.items():
        content[key.removesuffix("_id")] = tokenizer.token_bytes(token_id).decode()
    if tokenizer.chat_template:
        content["chat_template"] = tokenizer.chat_template
    return content


def _read_directory(directory: Path) -> tuple:
    """The config, the tensors by name, and the tokenizer or None."""
    if not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory}: no model here, config.json is missing")
    config = config_from_disk(read_json(directory / "config.json"))

    # the weights, in one file or in parts
    whole = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if whole.exists():
        parts = [whole]
    elif index.exists():
        parts = sorted({directory / name for name in read_json(index)["weight_map"].values()})
    else:
        raise FileNotFoundError(f"{directory}: no model here, {whole.name} is missing")
    stored = {name: tensor for part in parts for name, tensor in read_tensors(part).items()}

    return config, stored, _read_tokenizer(directory)


def _read_tokenizer(directory: Path) -> Tokenizer | None:
    if not (directory / "tokenizer.json").exists():
        return None
    settings = directory / "tokenizer_config.json"
    settings = read_json(settings) if settings.exists() else {}

    # the token that ends a text: its name, or an object that holds the name
    end = settings.get("eos_token") or END
    if not isinstance(end, str):
        end = end["content"]

    # the chat template: a file of its own, or a setting
    template = directory / "chat_template.jinja"
    template = template.read_text(encoding="utf-8") if template.exists() else settings.get("chat_template")
    if not isinstance(template, str):
        template = None

    return from_json((directory / "tokenizer.json").read_text(encoding="utf-8"), end, template)


class _NoDraws(TorchFunctionMode):
    """Skips nn.init.normal_, which would draw nothing on "meta", but loads PyTorch's compiler there: 1.5 seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs or {})
