"""What a run needs to continue exactly where it stopped: run/checkpoints/step-N, whole or not there at all.

Random numbers and the position in the data need no file: both are functions of the step.
"""

import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from ..config import COUNT, check
from ..loop import TrainState
from .reading import file_hash, read_json, read_tensors
from .writing import remove, write_json, write_tensors, written_whole

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save_checkpoint(
    run: Path | str, model: nn.Module, state: TrainState, settings: dict | None = None, keep: int = 2
) -> Path:
    """Write run/checkpoints/step-N: weights, buffers, moments, step, settings; return the path. The last `keep` stay.

    A kill at any moment leaves every earlier checkpoint whole, and one that is complete is never changed. settings:
    what the run depends on, as JSON, to be compared when it is resumed. sha256.json holds the files' hashes, by which
    later damage is noticed. Of a sharded model, every process must call it, and writes its shares into a file.
    """
    check({"keep": keep}, ["keep"], *COUNT)
    final = Path(run) / "checkpoints" / f"step-{state.step}"
    with suppress(ValueError, OSError):
        _check_whole(final)
        return final

    # write it: one process, or the processes of a sharded model together
    tensors = _tensors(model)
    shared = _sharded(tensors)
    first = not shared or distributed.get_rank() == 0
    if first:
        for left_over in final.parent.glob(".step-*"):
            remove(left_over)
        final.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        from . import shards  # here: it loads much of torch.distributed

        with shards.written_together(final) as aside:
            shards.write(aside, tensors | state.moments)
            if first:
                _describe(aside, state, settings)
    else:
        with written_whole(final) as aside:
            aside.mkdir()
            write_tensors(aside / "model.safetensors", tensors)
            write_tensors(aside / "optimizer.safetensors", state.moments)
            _describe(aside, state, settings)

    # remove all but the last `keep`; later ones belong to a continuation that was given up for this one
    saved = checkpoints(run) if first else []
    up_to_now = [path for path in saved if _step(path) <= state.step]
    for path in set(saved) - set(up_to_now[-keep:]):
        remove(path)
    return final


def _describe(directory: Path, state: TrainState, settings: dict | None) -> None:
    """Write step and settings, and then the hash of every file."""
    write_json(directory / "state.json", {"step": state.step, "settings": settings or {}})
    write_json(directory / "sha256.json", {path.name: file_hash(path) for path in sorted(directory.iterdir())})


def load_checkpoint(
    run: Path | str, model: nn.Module, settings: dict | None = None, step: int | None = None
) -> TrainState:
    """Put a checkpoint's weights into the model and return the state to pass to `train`: the newest, or step's.

    FileNotFoundError when it isn't there; ValueError when a file is damaged, when the model is another one, or when
    the run was saved with other settings than these. Each names the file or the setting. The model then stays as it
    was, and no other checkpoint is taken instead. A sharded model resumes in any number of processes, each of which
    must call it; sharded or not, a model takes what the other has saved.
    """
    path = _find(run, step)
    content = read_json(path / "state.json")
    if type(content.get("step")) is not int or not isinstance(content.get("settings"), dict):
        raise ValueError(f"{path / 'state.json'}: must hold the number of a step and an object of settings")
    tensors = _tensors(model)
    in_shards = _sharded(tensors) or not (path / "model.safetensors").exists()
    if not in_shards:
        weights, moments = ({n: each.read() for n, each in read_tensors(path / file).items()} for file in FILES[:2])

    # is it this run's?
    if settings is not None:
        now, was = json.loads(json.dumps(settings)), content["settings"]  # as JSON has it: a tuple is a list
        different = [name for name in now | was if now.get(name) != was.get(name)]
        if different:
            values = "; ".join(f"{name}={now.get(name)!r}, it was {was.get(name)!r}" for name in different)
            raise ValueError(f"{path}: saved by another run than the one to resume: {values}")
    if in_shards:
        from . import shards

        return TrainState(content["step"], shards.read(path, tensors, together=_sharded(tensors)))
    if {name: saved.shape for name, saved in weights.items()} != {name: ours.shape for name, ours in tensors.items()}:
        raise ValueError(f"{path}: the tensors are those of another model than the one to resume")

    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])
    return TrainState(content["step"], moments)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that a model keeps: its parameters, a tied one once, and the buffers that its state dict has."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {name: each for name, each in model.named_buffers() if name in kept}


def _sharded(tensors: dict[str, Tensor]) -> bool:
    """Whether they are a sharded model's, of which each process has only its share."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors.values())


def checkpoints(run: Path | str) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((path for path in (Path(run) / "checkpoints").glob("step-*") if _step(path) > 0), key=_step)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isdecimal() else 0  # 0: somebody's copy, like step-10.bak


def _find(run: Path | str, step: int | None) -> Path:
    """The newest checkpoint, or that of `step`, after its hashes were checked."""
    saved = {_step(path): path for path in checkpoints(run)}
    if not saved:
        raise FileNotFoundError(f"{run}: no checkpoint to resume from, checkpoints/step-N is missing")
    path = saved.get(max(saved) if step is None else step)
    if path is None:
        raise FileNotFoundError(f"{run}: no checkpoint of step {step}, only of {', '.join(map(str, saved))}")
    try:
        _check_whole(path)
    except ValueError as problem:
        others = " or ".join(str(number) for number, other in saved.items() if other != path)
        hint = f"another save is there, ask for it with resume={others}" if others else "no other save is there"
        raise ValueError(f"{problem}; {hint}") from problem
    return path


def _check_whole(checkpoint: Path) -> None:
    """ValueError unless each file of a checkpoint is, byte for byte, what was written."""
    if not (checkpoint / "sha256.json").is_file():
        raise ValueError(f"{checkpoint / 'sha256.json'}: is missing")
    hashes = read_json(checkpoint / "sha256.json")
    names = sorted(hashes) if any(name.startswith("shard-") for name in hashes) else FILES
    for name in names:
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint / name}: is missing")
        if file_hash(checkpoint / name) != hashes.get(name):
            raise ValueError(f"{checkpoint / name}: damaged: its hash is not the one in sha256.json")
