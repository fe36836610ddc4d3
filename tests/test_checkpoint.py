"""A run directory is whole or was never there."""

import json
import os

import pytest
import torch
from conftest import tiny
from helpers import need
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from minigpt import TrainState, load, load_checkpoint, save, save_checkpoint
from minigpt.files import checkpoint, writing

IDS = torch.tensor([[1, 2, 3, 4]])


def contents(directory) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def directory(tmp_path, tok):
    save(tmp_path / "model", tiny(torch.float32, vocab_size=tok.vocab_size), tok)
    return tmp_path / "model"


def test_a_loaded_model_gives_the_logits_of_the_saved_one(tmp_path, switches):
    model = tiny(**switches)
    save(tmp_path, model, None)
    loaded, tokenizer = load(tmp_path)
    assert tokenizer is None
    assert loaded.config == model.config
    assert not loaded.training
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), model.parameters()))
    assert_close(loaded(IDS), model(IDS), rtol=1e-12, atol=1e-12)  # other places in memory, another order of sums
    assert (loaded.head.weight is loaded.token_embedding.weight) == model.config.tie_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_precision_on_disk(tmp_path, dtype):
    model = tiny(dtype)
    save(str(tmp_path), model, None)  # a path may be text
    loaded, _ = load(str(tmp_path), dtype)
    assert all(torch.equal(p, q) and p.dtype == dtype for p, q in zip(loaded.parameters(), model.parameters()))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_a_run_directory_holds_safetensors_and_json_only(directory):
    assert sorted(contents(directory)) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_weights_say_that_they_are_pytorchs(directory):
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # which older versions of transformers require


def test_a_tokenizer_comes_back_with_its_model(directory, tok):
    _, loaded = load(directory)
    assert (loaded.tokens, loaded.special) == (tok.tokens, tok.special)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_directory_that_is_half_there_is_refused_with_what_is_missing(directory, name):
    (directory / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{directory}.*{name} is missing"):
        load(directory)


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_weights_that_are_cut_short_are_refused_by_name(directory, size):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"{path}: damaged or cut short"):
        load(directory)


def test_a_config_that_is_no_json_is_refused_with_its_line(directory):
    (directory / "config.json").write_text('{\n"model_type": "llama",\n oops\n}')
    with pytest.raises(ValueError, match=r"config\.json:3: not JSON"):
        load(directory)


@pytest.mark.parametrize("content", ["[]", "{}", '{"model_type": "llama"}', "null", '{"model_type": "bert"}'])
def test_a_config_that_lacks_what_is_needed_is_refused_with_its_directory(directory, content):
    (directory / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"{directory}.*config.json"):
        load(directory)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 0}, {"hidden_size": "wide"}, {"num_attention_heads": 5}], ids=str
)
def test_a_config_with_a_bad_value_is_refused_with_its_directory(directory, change):
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=f"^{directory}: "):
        load(directory)


def test_a_broken_tokenizer_is_refused_with_its_directory(directory):
    (directory / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=f"{directory}.*tokenizer.json"):
        load(directory)


class FullDisk:
    """A disk that takes this many more files or lists of names, then is full in the middle of one."""

    def __init__(self, monkeypatch, files: int):
        self.files, self.sync = files, writing._sync
        monkeypatch.setattr(writing, "_sync", self)

    def __call__(self, path) -> None:
        if self.files == 0:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            raise OSError(28, "No space left on device", str(path))
        self.files -= 1
        self.sync(path)


@pytest.mark.parametrize("files", range(10))  # each file, then its directory's list of names
def test_each_file_of_a_model_stays_whole_when_writing_fails(directory, tok, monkeypatch, files):
    before = contents(directory)
    other = tiny(torch.float32, seed=1, vocab_size=tok.vocab_size)
    FullDisk(monkeypatch, files)
    with pytest.raises(OSError, match="No space left"):
        save(directory, other, tok)
    after = contents(directory)
    changed = [name for name in before if before[name] != after[name]]
    assert after.keys() == before.keys()  # nothing half-written is left behind
    assert changed == (["model.safetensors"] if files else [])  # the one new file is complete:
    load(directory)


def test_a_file_is_replaced_and_never_written_over(directory, tok):
    held = directory / "held"  # what somebody who has the old file open sees
    os.link(directory / "model.safetensors", held)
    before = held.read_bytes()
    save(directory, tiny(torch.float32, seed=1, vocab_size=tok.vocab_size), tok)
    assert held.read_bytes() == before != (directory / "model.safetensors").read_bytes()


def saved_run(run, steps: list[int], **arguments) -> None:
    for step in steps:
        model = tiny(seed=step)
        moments = {name: torch.full_like(p, step) for name, p in model.named_parameters()}
        save_checkpoint(run, model, TrainState(step, moments), **arguments)


@pytest.mark.parametrize("keep, left", [(1, [12]), (2, [9, 12]), (9, [3, 9, 12])])
def test_the_last_checkpoints_stay_and_the_newest_is_resumed(tmp_path, keep, left):
    saved_run(tmp_path, [3, 9, 12], keep=keep)  # by number: 9 comes before 12
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [f"step-{step}" for step in left]
    model = tiny(seed=0)
    state = load_checkpoint(tmp_path, model)
    assert state.step == 12
    assert_close(model.state_dict(), tiny(seed=12).state_dict(), rtol=0, atol=0)
    assert all((moment == 12).all() for moment in state.moments.values())


@pytest.mark.parametrize("files", range(9))
def test_a_checkpoint_that_can_not_be_written_leaves_the_earlier_ones_whole(tmp_path, monkeypatch, files):
    # docs/known_bugs.md: checkpoints torn by a kill
    saved_run(tmp_path, [1, 2])
    before = contents(tmp_path)
    FullDisk(monkeypatch, files)
    with pytest.raises(OSError, match="No space left"):
        saved_run(tmp_path, [3])
    assert before.items() <= contents(tmp_path).items()
    assert load_checkpoint(tmp_path, tiny()).step == 2
    monkeypatch.undo()
    saved_run(tmp_path, [3])  # what was left over is no obstacle
    assert load_checkpoint(tmp_path, tiny()).step == 3
    assert not list(tmp_path.rglob("*.partial"))


def test_a_checkpoint_half_written_by_a_killed_run_is_not_seen(tmp_path):
    saved_run(tmp_path, [1])
    torn = tmp_path / "checkpoints" / ".step-2.partial"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"torn")
    assert load_checkpoint(tmp_path, tiny()).step == 1
    saved_run(tmp_path, [3])
    assert not torn.exists()


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no checkpoint"):
        load_checkpoint(tmp_path, tiny())


def test_a_checkpoint_of_another_model_is_refused_and_the_model_stays(tmp_path):
    saved_run(tmp_path, [1])
    for changes in (dict(d_ff=32), dict(bias=True), dict(n_layers=1)):
        model = tiny(**changes)
        with pytest.raises(ValueError, match="another model"):
            load_checkpoint(tmp_path, model)
        assert torch.equal(model(IDS), tiny(**changes)(IDS))


@pytest.mark.parametrize("step", [None, 3, 9])
def test_a_step_can_be_asked_for(tmp_path, step):
    saved_run(tmp_path, [3, 9])
    model = tiny()
    assert load_checkpoint(tmp_path, model, step=step).step == (step or 9)
    assert_close(model.state_dict(), tiny(seed=step or 9).state_dict(), rtol=0, atol=0)


def test_a_step_that_is_not_saved_is_refused_with_those_that_are(tmp_path):
    saved_run(tmp_path, [3, 9])
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no checkpoint of step 5, only of 3, 9"):
        load_checkpoint(tmp_path, tiny(), step=5)


FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "sha256.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["cut short", "missing", "longer", *range(8)])
def test_a_damaged_save_is_refused_by_its_file_and_another_is_taken_only_when_asked_for(tmp_path, name, fault):
    saved_run(tmp_path, [1, 2])
    path = tmp_path / "checkpoints" / "step-2" / name
    content = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "cut short":
        path.write_bytes(content[:-7])
    elif fault == "longer":
        path.write_bytes(content + content)
    else:
        content[len(content) * fault // 8] ^= 1 << fault  # one bit, at the file's beginning, in the middle, …
        path.write_bytes(content)
    model = tiny()
    with pytest.raises(
        ValueError, match=f"{path.parent}/.*; another save is there, ask for it with resume=1$"
    ) as found:
        load_checkpoint(tmp_path, model)
    assert str(path) in str(found.value) or name == "sha256.json"  # a hash that changed speaks of the file it is for
    assert torch.equal(model(IDS), tiny()(IDS))
    assert load_checkpoint(tmp_path, model, step=1).step == 1


def test_the_only_save_being_damaged_there_is_no_other_to_ask_for(tmp_path):
    saved_run(tmp_path, [1])
    (tmp_path / "checkpoints" / "step-1" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"state\.json: damaged.*; no other save is there"):
        load_checkpoint(tmp_path, tiny())


def test_a_run_that_went_on_from_an_earlier_save_replaces_the_damaged_and_drops_the_later_ones(tmp_path):
    saved_run(tmp_path, [1, 2, 3, 4], keep=9)
    path = tmp_path / "checkpoints" / "step-2" / "model.safetensors"
    path.write_bytes(b"damaged")
    saved_run(tmp_path, [2])  # as the run goes on from step 1
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-1", "step-2"]
    assert load_checkpoint(tmp_path, tiny()).step == 2


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"seed": None}, {"betas": [0.9, 0.99]}, {"clip": 1.0}], ids=str)
def test_a_run_with_other_settings_is_refused_by_the_one_that_differs(tmp_path, change):
    settings = {"lr": 0.3, "seed": 0, "betas": (0.9, 0.95), "data": "f00d"}
    saved_run(tmp_path, [1], settings=settings)
    assert load_checkpoint(tmp_path, tiny(), settings).step == 1
    ((name, value),) = change.items()
    was = {"lr": "0.3", "seed": "0", "betas": r"\[0.9, 0.95\]", "clip": "None"}[name]
    model = tiny()
    with pytest.raises(ValueError, match=rf"step-1: saved by another run.*: {name}=.*, it was {was}$") as found:
        load_checkpoint(tmp_path, model, {key: now for key, now in (settings | change).items() if now is not None})
    assert f"{name}={value}" in str(found.value) and "data" not in str(found.value)
    assert torch.equal(model(IDS), tiny()(IDS))


def test_buffers_are_saved_too_but_for_those_that_a_model_makes_itself(tmp_path):
    model, again = tiny(), tiny(seed=1)
    for one in (model, again):
        one.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
        one.register_buffer("mask", torch.ones(3), persistent=False)
    model.seen += 7
    save_checkpoint(tmp_path, model, TrainState(1, {}))
    load_checkpoint(tmp_path, again)
    assert again.seen.tolist() == [7, 7]
    assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    held = load_file(tmp_path / "checkpoints" / "step-1" / "model.safetensors")
    assert "seen" in held and "mask" not in held and "head.weight" not in held
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(tmp_path, tiny())


@pytest.mark.parametrize(
    "state", [{}, {"step": 1}, {"settings": {}}, {"step": "1", "settings": {}}, {"step": 1, "settings": []}], ids=str
)
def test_a_state_that_lacks_what_is_needed_is_refused_even_where_its_hash_is_right(tmp_path, state):
    saved_run(tmp_path, [1])
    path = tmp_path / "checkpoints" / "step-1"
    (path / "state.json").write_text(json.dumps(state))
    hashes = {name: checkpoint.file_hash(path / name) for name in checkpoint.FILES}
    (path / "sha256.json").write_text(json.dumps(hashes))
    for settings in (None, {"lr": 0.1}):
        with pytest.raises(ValueError, match=r"state\.json: must hold the number of a step"):
            load_checkpoint(tmp_path, tiny(), settings)


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_a_pipe_in_a_checkpoint_is_never_read(tmp_path, name):
    saved_run(tmp_path, [1])
    path = tmp_path / "checkpoints" / "step-1" / name
    path.unlink()
    need(os, "mkfifo")(path)
    with pytest.raises(ValueError, match=f"{path}: is missing"):
        load_checkpoint(tmp_path, tiny())


@pytest.mark.parametrize("keep", [0, -1, 1.5, None, "2", True])
def test_a_number_of_saves_to_keep_below_1_is_refused_before_anything_is_written_or_deleted(tmp_path, keep):
    saved_run(tmp_path, [1, 2])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"keep={keep!r}: must be at least 1, a whole number"):
        save_checkpoint(tmp_path, tiny(), TrainState(3, {}), keep=keep)
    assert sorted(tmp_path.rglob("*")) == before


def stacked(weights: dict) -> dict:
    """Weights as an earlier version named them: query, key and value in one matrix, and gate and up in another."""
    joined = {}
    for name, tensor in weights.items():
        for part in ("query", "key", "value"):
            name = name.replace(f"attention.{part}.", "attention.query_key_value.")
        joined.setdefault(name.replace("mlp.gate.", "mlp.up."), []).append(tensor)
    return {name: torch.cat(tensors) for name, tensors in joined.items()}


def test_a_checkpoint_of_an_earlier_version_is_refused_by_name(tmp_path):
    earlier = torch.nn.Module()
    earlier.named_parameters = lambda: stacked(dict(tiny().named_parameters())).items()
    settings = {"lr": 0.1}
    save_checkpoint(tmp_path, earlier, TrainState(1, {}), settings | {"kernels": "fused"})
    model = tiny()
    for asked in (None, settings):
        with pytest.raises(ValueError, match=r"step-1: (the tensors are those of another model|saved by another run)"):
            load_checkpoint(tmp_path, model, asked)
    assert torch.equal(model(IDS), tiny()(IDS))


def test_a_directory_of_an_earlier_version_in_our_own_names_is_refused_by_name(tmp_path):
    model = tiny(norm="layernorm")
    save(tmp_path, model, None)
    content = json.loads((tmp_path / "config.json").read_text())
    content |= {"kernels": "fused", "qk_norm": False, "embedding_norm": False}
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(stacked(model.state_dict()), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{tmp_path}: the tensor \S+ is missing"):
        load(tmp_path)


def test_a_checkpoint_is_written_without_pickle(tmp_path):
    saved_run(tmp_path, [1], settings={"lr": 0.1})
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "step-1").iterdir()) == sorted(FILES)
    state = json.loads((tmp_path / "checkpoints" / "step-1" / "state.json").read_text())
    assert state == {"step": 1, "settings": {"lr": 0.1}}


def test_a_step_that_is_saved_already_is_never_written_again(tmp_path):
    saved_run(tmp_path, [1])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    saved_run(tmp_path, [1])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")} == before
    assert load_checkpoint(tmp_path, tiny()).step == 1


def test_a_full_disk_is_said_by_the_file_s_name_and_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path, tiny(), None)
    before = (tmp_path / "model.safetensors").read_bytes()

    def no_room(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("minigpt.files.writing.save_file", no_room)
    with pytest.raises(OSError, match=r"model\.safetensors: can't be written \(No space left on device\)"):
        save(tmp_path, tiny(seed=1), None)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*partial"))
