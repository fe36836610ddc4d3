"""A model and its tokenizer on disk: `save` writes a Hugging Face model directory, `load` opens one or a GGUF file.

Only safetensors and JSON: opening a file that somebody else made runs none of their code.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..model import GPT
from ..tokenizer import END, Tokenizer
from . import gguf
from .huggingface import config_from_disk, config_to_disk, family_of, weights_from_disk, weights_to_disk
from .reading import read_json, read_tensors
from .tokenizer_json import from_json, to_json
from .writing import write_json, write_tensors, write_text

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


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
        names = _special_names(tokenizer)
        ends = {
            "bos_token_id": tokenizer.special[names.get("bos_token", tokenizer.end)],
            "eos_token_id": list(tokenizer.end_ids) if len(tokenizer.end_ids) > 1 else tokenizer.end_id,
            "pad_token_id": tokenizer.special[names["pad_token"]],
        }
        config |= ends
        write_text(directory / "tokenizer.json", to_json(tokenizer))
        write_json(directory / "tokenizer_config.json", _tokenizer_config(tokenizer, names))
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
        if tokenizer is not None:
            model = _match_rows(model, tokenizer)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from problem
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.eval(), tokenizer


def _match_rows(model: GPT, tokenizer: Tokenizer) -> GPT:
    """The model, which never draws an id that is no token. ValueError when it has fewer rows than there are tokens."""
    rows, ids = model.vocab_size, tokenizer.vocab_size
    if ids > rows:
        name = tokenizer.token_bytes(ids - 1).decode(errors="replace")
        raise ValueError(f"the tokenizer has {ids} ids and the model {rows} embedding rows: {name!r:.40} has none")
    if ids < rows:
        model.__class__ = SpareRows
        model.spare_ids = range(ids, rows)
    return model


class SpareRows(GPT):
    """A model with more embedding rows than the tokenizer has ids, as many are: their number is rounded up."""

    spare_ids: range

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, object]:
        return self._without_spare(*super().prefill(prompts))

    def step(self, state: object, ids: Tensor) -> tuple[Tensor, object]:
        return self._without_spare(*super().step(state, ids))

    def _without_spare(self, logits: Tensor, state: object) -> tuple[Tensor, object]:
        return logits.index_fill(-1, torch.tensor(self.spare_ids, device=logits.device), -torch.inf), state


def _special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokens that pad, begin and end a text, and others, as tokenizer_config.json calls them."""
    begin = {"bos_token": tokenizer.special_names[tokenizer.start[0]]} if tokenizer.start else {}
    return {"pad_token": tokenizer.end} | begin | tokenizer.names | {"eos_token": tokenizer.end}


def _tokenizer_config(tokenizer: Tokenizer, names: dict[str, str]) -> dict:
    """The content of tokenizer_config.json: the special tokens by their text, and the chat template if there is one."""
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
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

    # the chat template: a file of its own, or a setting, which may list several by name
    template = directory / "chat_template.jinja"
    template = template.read_text(encoding="utf-8") if template.exists() else settings.get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}
        if "default" not in template:
            raise ValueError(f"chat_template has the names {sorted(template)}; only one called 'default' is used")
        template = template["default"]
    if not isinstance(template, str | None):
        raise ValueError(f"chat_template is {template!r:.80}; it must be text, or a list of named texts")

    # special tokens by their names, or objects that hold the name; every file's ids of those that end an answer
    found = {role: settings[role] for role in ROLES if settings.get(role)}
    names = {role: name if isinstance(name, str) else name["content"] for role, name in found.items()}
    ends = []
    for file in ("generation_config.json", "config.json"):
        told = read_json(directory / file).get("eos_token_id") if (directory / file).exists() else None
        ends += told if isinstance(told, list) else [] if told is None else [told]
    for token_id in ends:
        if type(token_id) is not int or token_id < 0:
            raise ValueError(f"eos_token_id is {token_id!r:.40}; it must be a token's id, or a list of them")

    content = (directory / "tokenizer.json").read_text(encoding="utf-8")
    end = names.pop("eos_token", None)
    tokenizer = from_json(content, end or END, template, end_ids=ends, names=names)
    for token_id in ends:
        if token_id >= tokenizer.vocab_size:
            raise ValueError(f"eos_token_id is {token_id}; the tokenizer's ids are 0 to {tokenizer.vocab_size - 1}")
    for role, name in names.items():
        if name not in tokenizer.special and role != "unk_token":
            raise ValueError(f"{role} is {name!r:.40}; the tokenizer has no such special token")
    if end is None and ends and ends[0] in tokenizer.special_names:  # only the ids are told
        return from_json(content, tokenizer.special_names[ends[0]], template, end_ids=ends, names=names)
    return tokenizer


class _NoDraws(TorchFunctionMode):
    """Skips nn.init.normal_, which would draw nothing on "meta", but loads PyTorch's compiler there: 1.5 seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs or {})
