"""A run directory on disk, each file of it written whole or not at all.

`save` and `load`: the model and its tokenizer, as a Hugging Face model directory. `save_checkpoint` and
`load_checkpoint`: what a run needs to go on exactly where it was. Only safetensors and JSON, so opening a file that
somebody else made runs none of their code.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..loop import TrainState
from ..model import GPT
from ..tokenizer import END, Tokenizer
from . import gguf, huggingface
from .tokenizer_json import from_json, to_json

CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "state.json")


def save(directory: Path | str, model: GPT, tokenizer: Tokenizer | None) -> None:
    """Write model.safetensors, tokenizer.json, generation_config.json and, last, config.json into the directory.

    `transformers` opens it with AutoModelForCausalLM and AutoTokenizer when the architecture is Llama's or GPT-2's.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    config = huggingface.config_to_disk(model.config, dtype)
    _write_tensors(directory / "model.safetensors", huggingface.weights_to_disk(model.state_dict(), model.config))
    if tokenizer is not None:
        start, end = tokenizer.start[0] if tokenizer.start else tokenizer.end_id, tokenizer.end_id
        ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
        names = {key.removesuffix("_id"): tokenizer.token_bytes(id).decode() for key, id in ends.items()}
        names |= {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        _write(directory / "tokenizer.json", to_json(tokenizer))
        _write(directory / "tokenizer_config.json", _json(kind | names))
        _write(directory / "generation_config.json", _json({**ends, "max_length": model.context_length}))
        config |= ends
    _write(directory / "config.json", _json(config))


def load(path: Path | str, dtype: torch.dtype | None = None) -> tuple[GPT, Tokenizer | None]:
    """Open a model directory or a GGUF file: the model in evaluation mode, and its tokenizer or None when it has none.

    A directory holds Hugging Face's files of a model of the Llama or the GPT-2 family, in one part or several. dtype:
    what the weights become; None keeps what is stored, but half precision becomes fp32. FileNotFoundError when a file
    is missing, ValueError when one can't be read, doesn't fit, or is of an architecture that we don't have; each names
    the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model")
    try:
        if path.is_file():
            kind, (config, stored, tokenizer) = "gguf", gguf.read(path)
        else:
            kind, (config, stored, tokenizer) = None, _read_directory(path)
        with torch.device("meta"), NoDraws():  # shapes without memory: the weights come from the file
            model = GPT(config)
        weights = huggingface.weights_from_disk(stored, model.state_dict(), config, kind, dtype)
        model.load_state_dict(weights, assign=True)
    except (TypeError, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from problem
    if config.tie_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.eval(), tokenizer


class NoDraws(TorchFunctionMode):
    """Within it weights are not drawn: on the meta device a draw changes nothing, and the first one costs a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is nn.init.normal_:
            return kwargs["tensor"]
        return function(*args, **kwargs or {})


def _read_directory(directory: Path) -> tuple:
    """A Hugging Face directory: the config, by name a function that reads the tensor, and the tokenizer or None."""
    index, whole = directory / "model.safetensors.index.json", directory / "model.safetensors"
    for file in (directory / "config.json", whole):
        if not (file.exists() or (file == whole and index.exists())):
            raise FileNotFoundError(f"{directory}: no model here, {file.name} is missing")
    content = _read_json(directory / "config.json")
    config = huggingface.config_from_disk(content)
    parts = {whole} if whole.exists() else {directory / name for name in _read_json(index)["weight_map"].values()}
    stored = {name: partial(_read_tensor, part, name) for part in sorted(parts) for name in _tensor_names(part)}
    if not (directory / "tokenizer.json").exists():
        return config, stored, None
    named = directory / "tokenizer_config.json"
    named = _read_json(named) if named.exists() else {}
    template = directory / "chat_template.jinja"
    template = template.read_text(encoding="utf-8") if template.exists() else named.get("chat_template")
    end = named.get("eos_token") or END
    tokenizer = from_json(
        (directory / "tokenizer.json").read_text(encoding="utf-8"),
        end=end if isinstance(end, str) else end["content"],
        chat_template=template if isinstance(template, str) else None,
    )
    return config, stored, tokenizer


def save_checkpoint(
    run: Path | str, model: nn.Module, state: TrainState, settings: dict | None = None, keep: int = 2
) -> Path:
    """Write run/checkpoints/step-N: weights, moments, the step and settings; return its path. The last `keep` stay.

    It is written aside, synced and renamed in, so a kill at any moment leaves every earlier one whole. sha256.json,
    written last, tells each byte that changes later. settings: what the run depends on, as JSON, to be compared when
    it is resumed. Random numbers and the position in the data need no file: both are functions of the step.
    """
    final = Path(run) / "checkpoints" / f"step-{state.step}"
    with suppress(ValueError, OSError):
        _check_whole(final)
        return final  # this step is saved already, and a save is never changed
    for left_over in final.parent.glob(".step-*"):
        shutil.rmtree(left_over)
    aside = final.with_name(f".{final.name}.partial")
    aside.mkdir(parents=True)
    _write_tensors(aside / "model.safetensors", dict(model.named_parameters()))
    _write_tensors(aside / "optimizer.safetensors", state.moments)
    _write(aside / "state.json", _json({"step": state.step, "settings": settings or {}}))
    _write(aside / "sha256.json", _json({name: file_hash(aside / name) for name in CHECKPOINT}))
    _sync(aside)
    if final.exists():  # damaged, and we went on from an earlier one
        _remove(final)
    os.replace(aside, final)
    _sync(final.parent)
    saved = checkpoints(run)
    ours = [path for path in saved if _step(path) <= state.step]  # later ones: of what was given up for an earlier one
    for path in set(saved) - set(ours[-keep:]):
        _remove(path)
    return final


def checkpoints(run: Path | str) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((Path(run) / "checkpoints").glob("step-*"), key=_step)


def load_checkpoint(
    run: Path | str, model: nn.Module, settings: dict | None = None, step: int | None = None
) -> TrainState:
    """Put a checkpoint's weights into the model and return the state to pass to `train`: the newest, or step's.

    FileNotFoundError when it isn't there; ValueError when a file is damaged, when the model is another, or when the
    run was saved with other settings than these. Each names the file or the setting; the model stays as it was, and
    another checkpoint than the one that was asked for is never taken instead.
    """
    saved = {_step(path): path for path in checkpoints(run)}
    if not saved:
        raise FileNotFoundError(f"{run}: no checkpoint to resume from, checkpoints/step-N is missing")
    save = saved.get(max(saved) if step is None else step)
    if save is None:
        raise FileNotFoundError(f"{run}: no checkpoint of step {step}, only of {', '.join(map(str, saved))}")
    try:
        _check_whole(save)
    except ValueError as problem:
        others = " or ".join(str(number) for number, path in saved.items() if path != save)
        hint = f"another save is there, ask for it with resume={others}" if others else "no other save is there"
        raise ValueError(f"{problem}; {hint}") from problem
    content = _read_json(save / "state.json")
    if settings is not None:
        now, was = json.loads(_json(settings)), content["settings"]
        other = [name for name in now | was if now.get(name) != was.get(name)]
        if other:
            values = "; ".join(f"{name}={now.get(name)!r}, it was {was.get(name)!r}" for name in other)
            raise ValueError(f"{save}: saved by another run than the one to resume: {values}")
    weights = _read_tensors(save / "model.safetensors")
    parameters = dict(model.named_parameters())
    if {name: p.shape for name, p in weights.items()} != {name: p.shape for name, p in parameters.items()}:
        raise ValueError(f"{save}: the tensors are those of another model than the one to resume")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return TrainState(content["step"], _read_tensors(save / "optimizer.safetensors"))


def file_hash(path: Path | str) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _step(save: Path) -> int:
    return int(save.name.removeprefix("step-"))


def _check_whole(save: Path) -> None:
    """Each file of a checkpoint is, byte for byte, what was written."""
    for name in ("sha256.json", *CHECKPOINT):
        if not (save / name).exists():
            raise ValueError(f"{save / name}: is missing")
    hashes = _read_json(save / "sha256.json")
    for name in CHECKPOINT:
        if file_hash(save / name) != hashes.get(name):
            raise ValueError(f"{save / name}: damaged, cut short or changed: its hash is not the one in sha256.json")


def _remove(save: Path) -> None:
    """Rename a checkpoint out of sight, then delete it: a kill in between leaves no half of one to be seen."""
    hidden = save.with_name(f".{save.name}.removed")
    os.replace(save, hidden)
    shutil.rmtree(hidden)


def _json(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}:{problem.lineno}: not JSON ({problem.msg})") from problem
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: not UTF-8 text (at byte {problem.start})") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object with keys, not {content!r:.60}")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as problem:
        raise ValueError(f"{path}: damaged or cut short ({problem})") from problem


def _tensor_names(path: Path) -> list[str]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: this part of the model is missing")
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except SafetensorError as problem:
        raise ValueError(f"{path}: damaged or cut short ({problem})") from problem


def _read_tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:  # opened for each tensor, so that memory lets go of what has been read
        return file.get_tensor(name)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        _replace(path, lambda aside: save_file(contiguous, aside, metadata={"format": "pt"}))
    except SafetensorError as problem:
        raise OSError(f"{path}: can't be written ({problem})") from problem


def _write(path: Path, text: str) -> None:
    _replace(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def _replace(path: Path, write) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        write(aside)
        _sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
