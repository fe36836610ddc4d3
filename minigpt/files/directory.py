"""A model and its tokenizer on disk: `save` writes a Hugging Face model directory, `load` opens one or a GGUF file.

Only safetensors and JSON: opening a file that somebody else made runs none of their code.
"""

from dataclasses import replace
from itertools import product
from os.path import lexists
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import GPTConfig
from ..model import GPT
from ..tokenizer import END, PROMPT, RESPONSE, SPECIAL_TOKENS, Tokenizer
from . import gguf
from .huggingface import config_from_disk, config_to_disk, family_of, weights_from_disk, weights_to_disk
from .reading import errors_of, read_json, read_tensors, read_text, regular_file
from .tokenizer_json import from_json, to_json
from .writing import write_json, write_tensors, write_text

NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
UNTOLD = {"bos_token": None, "pad_token": None}  # names that a directory leaves out: no others take their place
OLDER = ("special_tokens_map.json", "added_tokens.json")  # where older programs put parts of tokenizer_config.json
# Our layout of a conversation as a chat template, for programs that ask for one; sft/template.py is what we go by.
OUR_LAYOUT = (
    "{% set start = 1 if messages[0]['role'] == 'system' else 0 %}{% for message in messages[start:] %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + '" + END + "' }}{% else %}"
    "{{ '" + PROMPT + "' + (messages[0]['content'] + '\n\n' if start and loop.first else '') + message['content'] "
    "+ '" + RESPONSE + "' }}{% endif %}{% endfor %}"
)


def save(directory: Path | str, model: GPT, tokenizer: Tokenizer | None) -> None:
    """Write model.safetensors, tokenizer.json, generation_config.json and, last, config.json into the directory.

    `transformers` opens it with AutoModelForCausalLM and AutoTokenizer when the architecture is Llama's or GPT-2's.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = config_to_disk(model.config, str(model.head.weight.dtype).removeprefix("torch."))
    weights = weights_to_disk(model.state_dict(), model.config, family_of(model.config))
    write_tensors(directory / "model.safetensors", weights)

    if tokenizer is not None:
        names = _special_names(tokenizer)
        ids = list(tokenizer.end_ids) or None
        ends = {
            "bos_token_id": tokenizer.special.get(names.get("bos_token", tokenizer.end)),
            "eos_token_id": ids[0] if ids and len(ids) == 1 else ids,
            "pad_token_id": tokenizer.special.get(names.get("pad_token", tokenizer.end)),
        }
        config |= ends
        write_text(directory / "tokenizer.json", to_json(tokenizer))
        layout = tokenizer.chat_template or (OUR_LAYOUT if tokenizer.special.keys() >= set(SPECIAL_TOKENS) else None)
        for name in ("chat_template.jinja", *OLDER):  # an older model's would be read beside what we write
            (directory / name).unlink(missing_ok=True)
        template = {"chat_template": layout} if layout else {}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        write_json(directory / "tokenizer_config.json", settings | names | template)
        write_json(directory / "generation_config.json", ends)

    write_json(directory / "config.json", config)


def load(path: Path | str, dtype: torch.dtype | None = None) -> tuple[GPT, Tokenizer | None]:
    """Open a model directory or a GGUF file: the model in evaluation mode, and its tokenizer or None when it has none.

    A directory holds Hugging Face's files of a model of the Llama or the GPT-2 family, in one part or several. dtype:
    what the weights become; None keeps what is stored, but half precision becomes fp32. FileNotFoundError when a file
    is missing; ValueError when one can't be read, doesn't fit, or holds an architecture that is not supported. Each
    names the file.
    """
    path = Path(path)
    with errors_of(path):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: load takes a path; only commands take short names")
        config, family, stored, tokenizer = _read_directory(path) if path.is_dir() else gguf.read(regular_file(path))

        weights = weights_from_disk(stored, _parameters(config), config, family, dtype)
        with torch.device("meta"), _NoDraws():  # shapes without memory: the file's weights come in their place
            model = GPT(config)
        model.load_state_dict(weights, assign=True)
        if tokenizer is not None:
            model = _match_rows(model, tokenizer)
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.eval(), tokenizer


def _match_rows(model: GPT, tokenizer: Tokenizer) -> GPT:
    """The model, which never draws an id that is no token. ValueError when it has fewer rows than there are tokens."""
    rows, ids = model.vocab_size, tokenizer.vocab_size
    if ids > rows:
        name = tokenizer.token_bytes(ids - 1).decode(errors="replace")
        raise ValueError(f"the tokenizer has {ids} ids and the model {rows} embedding rows: {name!r:.40} has none")
    spare = set(range(rows)) - set(tokenizer.ranks.values()) - set(tokenizer.special.values())
    if spare:
        model.__class__ = SpareRows
        model.spare_ids = sorted(spare)
    return model


class SpareRows(GPT):
    """A model with rows that are no token: beyond the last id, as their number is often rounded up, or between ids."""

    spare_ids: list[int]

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, object]:
        return self._without_spare(*super().prefill(prompts))

    def step(self, state: object, ids: Tensor) -> tuple[Tensor, object]:
        return self._without_spare(*super().step(state, ids))

    def _without_spare(self, logits: Tensor, state: object) -> tuple[Tensor, object]:
        return logits.index_fill(-1, torch.tensor(self.spare_ids, device=logits.device), -torch.inf), state


def _special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokens that pad, begin and end a text, and others, as tokenizer_config.json calls them; those that it has."""
    begin = {"bos_token": tokenizer.special_names[tokenizer.start[0]]} if tokenizer.start else {}
    names = {"pad_token": tokenizer.end} | begin | tokenizer.names | {"eos_token": tokenizer.end}
    return {key: name for key, name in names.items() if name in tokenizer.special}


def _read_directory(directory: Path) -> tuple:
    """The config, the family, the tensors by name, and the tokenizer or None."""
    config = config_from_disk(read_json(directory / "config.json"))

    # the weights, in one file or in parts
    whole = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    parts, names = [whole], {}
    if index.exists() and not whole.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise ValueError(f"{index}: weight_map must give, for each tensor, a file in this directory")
        parts = sorted({directory / name for name in names.values()})
    stored = {}
    for part in parts:
        tensors = read_tensors(part)
        for name in stored.keys() & tensors.keys():
            raise ValueError(f"{part}: the tensor {name} is in another part, too")
        stored |= tensors
        for name in {name for name in names if names[name] == part.name} - tensors.keys():
            raise ValueError(f"{index}: weight_map says that {name:.80} is in {part.name}, which lacks it")
    return config, family_of(config), stored, _read_tokenizer(directory)


def _read_tokenizer(directory: Path) -> Tokenizer | None:
    if not lexists(directory / "tokenizer.json"):
        return None
    files = ("generation_config.json", "config.json", "tokenizer_config.json", *OLDER)
    told = {name: read_json(directory / name) if lexists(directory / name) else {} for name in files}
    settings = told["tokenizer_config.json"]
    if "added_tokens_decoder" not in settings:  # `transformers` then obeys the older files, too
        settings |= told["special_tokens_map.json"]
        settings["added_tokens_decoder"] = {i: {"content": name} for name, i in told["added_tokens.json"].items()}

    # the chat template: a file of its own, or a setting, which may hold several by name
    template = directory / "chat_template.jinja"
    template = read_text(template) if lexists(template) else settings.get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template if isinstance(each, dict)}
    template = template.get("default", template) if isinstance(template, dict) else template
    if not isinstance(template, str | None):
        raise ValueError(f"chat_template is {template!r:.80}; must be text, or texts by name, one of them 'default'")

    # special tokens by their names, or objects that hold the name
    found = {key: settings[key] for key in NAMED_TOKENS if settings.get(key) not in (None, "")}
    names = {key: name.get("content", name) if isinstance(name, dict) else name for key, name in found.items()}
    end = names.get("eos_token")
    content = read_text(directory / "tokenizer.json")
    kept = UNTOLD | {key: name for key, name in names.items() if key != "eos_token"}
    tokenizer = from_json(content, end if isinstance(end, str) else END, template, names=kept)
    _check_settings(settings, names, tokenizer)

    # every file's ids of those that end an answer
    ends = []
    for file, key in product(files[:2], ("eos_token_id", "bos_token_id", "pad_token_id")):
        ids = [] if told[file].get(key) is None else told[file][key]
        ids = ids if isinstance(ids, list) and (key == "eos_token_id" or not ids) else [ids]
        for i in ids:
            if type(i) is not int or not 0 <= i < tokenizer.vocab_size:
                raise ValueError(f"{file}: {key} is {i!r:.40}; must be an id below {tokenizer.vocab_size}")
        ends += ids if key == "eos_token_id" else []  # the others stand for nothing that the tokenizer doesn't say
    if end is None and ends and ends[0] in tokenizer.special_names:  # only the ids are told
        tokenizer = from_json(content, tokenizer.special_names[ends[0]], template, names=kept)
    tokenizer.end_ids = tuple(dict.fromkeys([*tokenizer.end_ids, *ends]))
    if template == OUR_LAYOUT and tokenizer.special.keys() >= set(SPECIAL_TOKENS):
        tokenizer.chat_template = None  # it need not be rendered
    return tokenizer


def _check_settings(settings: dict, names: dict[str, object], tokenizer: Tokenizer) -> None:
    """ValueError when tokenizer_config.json asks for other ids than those that tokenizer.json gives."""
    for key in [key for key in ("add_prefix_space", "split_special_tokens") if settings.get(key)]:
        raise ValueError(f"tokenizer_config.json: {key} is {settings[key]!r:.40}; only false is supported")

    # named tokens, and more that have no names; an unknown token is for other kinds of tokenizers, it may be missing
    more = {key: settings.get(key) or [] for key in ("additional_special_tokens", "extra_special_tokens")}
    more = {key: tokens.values() if isinstance(tokens, dict) else tokens for key, tokens in more.items()}
    for key, name in [*names.items(), *((key, name) for key, tokens in more.items() for name in tokens)]:
        name = name.get("content", name) if isinstance(name, dict) else name
        unused = key == "unk_token" and isinstance(name, str) and name.encode() not in tokenizer.ranks
        if not (unused or (isinstance(name, str) and name in tokenizer.special)):
            raise ValueError(f"{key} is {name!r:.40}; the tokenizer has no such special token")

    # added tokens
    for i, token in settings["added_tokens_decoder"].items():
        takes_more = any(map(token.get, ("single_word", "lstrip", "rstrip")))
        if takes_more or tokenizer.special.get(token["content"]) != int(i):
            raise ValueError(f"the added token {i} is {token!r:.80}, and tokenizer.json says otherwise")


def _parameters(config: GPTConfig) -> dict[str, Tensor]:
    """Shapes of all parameters, by name. One block stands for all, for a file may lie about how many there are."""
    with torch.device("meta"), _NoDraws():
        one = GPT(replace(config, n_layers=1)).state_dict()
    layers = {name: range(config.n_layers if name.startswith("blocks.0.") else 1) for name in one}
    return {name.replace("blocks.0.", f"blocks.{i}."): one[name] for name in one for i in layers[name]}


class _NoDraws(TorchFunctionMode):
    """Skips nn.init.normal_, which would draw nothing on "meta", but loads PyTorch's compiler there: 1.5 seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return kwargs["tensor"] if function is nn.init.normal_ else function(*args, **kwargs or {})
