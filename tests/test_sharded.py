"""A model that is split over processes takes the steps, and writes the files, of a model that is not (P4).

The tests run this file under torchrun, as test_distributed.py does: one process alone is the reference.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, tiny
from helpers import refuses
from safetensors.torch import load_file, save_file
from test_distributed import CASES, ROOT, batches, torchrun
from torch import distributed
from torch.testing import assert_close

from decoding import stream
from minigpt import Tokenizer, TrainConfig, TrainState, evaluate, load_checkpoint, save, save_checkpoint, train
from minigpt.fast.sharded import gather, recompute, shard
from minigpt.files import checkpoint, shards
from minigpt.loop import summed_loss
from scripts import pretrain
from scripts.support.measuring.memory import Live
from scripts.support.torchrun import joined

NOT_SHARDED = {"optimizer", "compiled", "idle", "demonstrations"}  # test_distributed.py has these
SHARDED = {name: case for name, case in CASES.items() if not NOT_SHARDED & case.keys()}
SHARDED |= {
    "tied": dict(rows=6, model=dict(tie_embeddings=True)),
    "layernorm": dict(rows=6, model=dict(norm="layernorm", position="learned", mlp="gelu")),
    "recomputed": dict(rows=6, recomputed=True, micro_batches=2),
    "bf16": dict(rows=6, precision="bf16"),
}
SHORT = ["rows that do not divide", "fewer rows than processes", "recomputed"]
CONFIG = TrainConfig(steps=6, lr=1e-2, warmup=2)
MUON = TrainConfig(steps=1, optimizer="muon")


def results(
    split=lambda model: model, rows=0, learnt=lambda row: True, model=None, recomputed=False, **changes
) -> dict:
    """What three steps give, with an evaluation around each: losses, norms, and the last gradients and weights."""
    model = tiny(**{"tie_embeddings": False} | (model or {}))
    if recomputed:
        recompute(model)
    model = split(model)
    steps, losses = [], [evaluate(model, [batches(4)(9)])]
    for step in train(model, batches(rows, learnt), TrainConfig(**dict(steps=3, lr=1e-2, warmup=2) | changes)):
        steps.append(step)
        losses.append(evaluate(model, [batches(4)(9)]))
    found = {name: torch.tensor([getattr(s, name) for s in steps]) for name in ("loss", "grad_norm", "tokens", "lr")}
    found["evaluated"] = torch.tensor(losses)
    for name, parameter in model.named_parameters():
        found |= {name: whole(parameter), f"gradient of {name}": whole(parameter.grad)}
    return found


def whole(tensor) -> torch.Tensor:
    return getattr(tensor, "full_tensor", lambda: tensor)().detach().clone()


def trained(model, state: TrainState, steps: int) -> dict[str, torch.Tensor]:
    """Train up to a step; return the weights and moments, whole."""
    for step in train(model, batches(5), CONFIG, state):
        if step.step == steps:
            break
    return {name: whole(tensor) for name, tensor in (dict(model.named_parameters()) | state.moments).items()}


def refused(act) -> str:
    try:
        act()
    except (ValueError, FloatingPointError) as problem:
        return str(problem)
    return "nothing"


def main(what: str, directory: Path) -> None:
    """One process's part."""
    with joined("cpu", sharded=True):
        rank, group = distributed.get_rank(), weakref.ref(distributed.group.WORLD)
        first = rank == 0
        if what == "resume":
            resume(directory, first)
            return
        for name in SHARDED if what == "all" else SHORT:
            save_file(results(shard, **SHARDED[name]), directory / f"{name}.{rank}")
        refuse(directory, rank)
        save_and_resume(directory, first)
        resume(directory, first)
        end(directory, first)
    (directory / f"group at the end.{rank}").write_text(str(group()))


def refuse(directory: Path, rank: int) -> None:
    """What each process says of an impossible optimizer, and of a NaN in the last process's share."""
    (directory / f"muon.{rank}").write_text(refused(lambda: next(train(shard(tiny()), batches(4), MUON))))
    poisoned = tiny(tie_embeddings=False)
    with torch.no_grad():
        poisoned.blocks[1].mlp.down.weight[-1] = torch.nan
    (directory / f"nan.{rank}").write_text(refused(lambda: next(train(shard(poisoned), batches(4), CONFIG))))


def save_and_resume(directory: Path, first: bool) -> None:
    """A run with dropout that is saved in the middle, and the rest of it again from there; one without dropout."""
    model, state = shard(tiny(dropout=0.3)), TrainState()
    trained(model, state, 3)
    save_checkpoint(directory / "dropping", model, state, {"a": 1})
    ended = trained(model, state, 6)
    again = shard(tiny(dropout=0.3, seed=1))
    resumed = trained(again, load_checkpoint(directory / "dropping", again, {"a": 1}), 6)
    said = refused(lambda: load_checkpoint(directory / "dropping", shard(tiny(d_ff=12))))
    if first:
        save_file(ended, directory / "ended")
        save_file(resumed, directory / "resumed")
        (directory / "another").write_text(said)

    model, state = shard(tiny()), TrainState()
    trained(model, state, 3)
    save_checkpoint(directory / "run", model, state)


def resume(directory: Path, first: bool) -> None:
    """Go on from what other processes, or one alone, have saved."""
    for source in ("run", "alone"):
        model = shard(tiny(seed=1))
        ended = trained(model, load_checkpoint(directory / source, model), 6)
        if first:
            save_file(ended, directory / f"{source} goes on")


def end(directory: Path, first: bool) -> None:
    """A run that ends as a model directory."""
    model = shard(tiny(vocab_size=262, tie_embeddings=True))
    list(train(model, batches(5), CONFIG))
    alone = gather(model)
    assert (alone is None) is not first
    if first:
        save(directory / "model", alone, Tokenizer.train(TEXTS, 262))


SLOW = pytest.mark.slow


@pytest.fixture(
    scope="module",
    params=[(2, "short"), *(pytest.param((count, "all"), marks=SLOW) for count in (1, 2, 4))],
    ids=lambda parameter: f"{parameter[0]} processes, {parameter[1]} cases",
)
def split(request, tmp_path_factory):
    """What the processes have written, how many they were, and the cases."""
    directory = tmp_path_factory.mktemp("split")
    model, state = tiny(), TrainState()
    trained(model, state, 3)
    save_checkpoint(directory / "alone", model, state)
    count, cases = request.param
    assert torchrun(count, __file__, cases, directory).wait(240) == 0
    if cases == "all":  # what they have saved goes on in another number of processes
        assert torchrun({1: 2, 2: 3, 4: 3}[count], __file__, "resume", directory).wait(240) == 0
    return directory, count, SHARDED if cases == "all" else SHORT


@pytest.mark.claim("P4")
def test_processes_with_shares_take_the_steps_of_one_with_all(split):
    directory, count, cases = split
    for name in cases:
        alone = results(**SHARDED[name])
        close = dict(rtol=2e-2, atol=2e-3) if name == "bf16" else dict(rtol=1e-10, atol=1e-12)
        for rank in range(count):
            assert_close(
                load_file(directory / f"{name}.{rank}"), alone, **close, msg=lambda text, at=name: f"{at}: {text}"
            )


def test_muon_is_refused_by_name(split):
    directory, count, _ = split
    for rank in range(count):
        assert "optimizer='muon': needs whole matrices" in (directory / f"muon.{rank}").read_text()


def test_a_gradient_that_is_not_finite_in_one_share_stops_all_processes(split):
    directory, count, _ = split
    said = {(directory / f"nan.{rank}").read_text() for rank in range(count)}
    assert len(said) == 1 and "step 1: loss nan" in said.pop()


def test_a_run_from_its_save_ends_bit_for_bit_as_the_run_that_made_it(split):
    directory, _, _ = split
    ended, resumed = load_file(directory / "ended"), load_file(directory / "resumed")
    assert ended.keys() == resumed.keys() and any(name.startswith("square.") for name in ended)
    assert all(torch.equal(ended[name], resumed[name]) for name in ended)


def test_another_model_is_refused(split):
    assert "the tensors are those of another model than the one to resume" in (split[0] / "another").read_text()


def test_shares_go_on_in_one_process_and_a_whole_save_in_several(split, tmp_path):
    directory, _, _ = split
    undisturbed = trained(tiny(), TrainState(), 6)
    alone = tiny(seed=1)
    assert_close(trained(alone, load_checkpoint(directory / "run", alone), 6), undisturbed, rtol=1e-10, atol=1e-12)
    for source in ("run", "alone"):
        assert_close(load_file(directory / f"{source} goes on"), undisturbed, rtol=1e-10, atol=1e-12)


def test_a_save_holds_each_number_once_in_safetensors_and_json(split):
    directory, count, _ = split
    (saved,) = checkpoint.checkpoints(directory / "run")
    parts = [f"shard-{i:05}-model-00001-of-00001.safetensors" for i in range(1, count + 1)]
    assert sorted(path.name for path in saved.iterdir()) == ["sha256.json", *parts, "state.json"]
    held = [tensor.numel() for part in parts for tensor in load_file(saved / part).values()]
    assert sum(held) == 3 * sum(parameter.numel() for parameter in tiny().parameters())
    shares = [sum(tensor.numel() for tensor in load_file(saved / part).values()) for part in parts]
    assert max(shares) < 1.3 * sum(shares) / count


def test_the_group_ends(split):
    directory, count, _ = split
    assert [(directory / f"group at the end.{rank}").read_text() for rank in range(count)] == ["None"] * count


def test_a_sharded_run_ends_as_the_same_directory(split, tmp_path):
    model = tiny(vocab_size=262, tie_embeddings=True)
    list(train(model, batches(5), CONFIG))
    save(tmp_path / "model", model, Tokenizer.train(TEXTS, 262))
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == sorted(path.name for path in (split[0] / "model").iterdir()) and len(names) == 5
    for name in names:
        ours, theirs = (path / "model" / name for path in (split[0], tmp_path))
        if name.endswith(".safetensors"):
            assert_close(load_file(ours), load_file(theirs), rtol=1e-10, atol=1e-12)
        else:
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("damage", ["missing", "changed", "partial"])
def test_a_save_that_is_not_whole_is_never_opened(split, tmp_path, damage):
    source = split[0] / "run" / "checkpoints" / "step-3"
    run = tmp_path / "checkpoints"
    shutil.copytree(source, run / ("step-3" if damage != "partial" else ".step-3.partial"))
    part = run / "step-3" / "shard-00001-model-00001-of-00001.safetensors"
    if damage == "partial":
        with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
            load_checkpoint(tmp_path, tiny())
        return
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=f"{part}: {'is missing' if damage == 'missing' else 'damaged'}"):
        load_checkpoint(tmp_path, tiny())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_save_without_moments_is_read(tmp_path):
    shards.write(tmp_path, {"weight": torch.ones(3)})
    read = {"weight": torch.zeros(3)}
    assert shards.read(tmp_path, read, together=False) == {}
    assert read["weight"].tolist() == [1, 1, 1]


def test_of_several_processes_that_can_not_write_the_first_is_told_of(tmp_path, monkeypatch):
    failures = {process: (OSError(f"disk {process} is full"), None) for process in (2, 1, 3)}

    def save(*args, **named):
        raise shards.CheckpointException("", failures)

    monkeypatch.setattr(shards.dcp, "save", save)
    with pytest.raises(OSError, match="process 1: disk 1 is full"):
        shards.write(tmp_path, {})


SMALL = (
    "--context-length 48 --n-layers 2 --d-model 32 --d-ff 32 --vocab-size 300 --batch-size 5 --device cpu --dropout .1"
)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--shard --optimizer muon", "--optimizer muon: --shard has no such choice, leave it out"),
        ("--shard --compile", "--compile True: --shard has no such choice, leave it out"),
        ("--shard --recompute --backend numpy", "--shard True, --recompute True: --backend numpy has no such choice"),
    ],
)
def test_what_does_not_go_with_shards_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, flags, message
):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    refuses(
        monkeypatch,
        capsys,
        message,
        pretrain,
        "--data",
        tmp_path / "text.txt",
        "--out",
        tmp_path / "run",
        *flags.split(),
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped by Ctrl-C"])
def test_a_sharded_run_of_the_command_line_goes_on_in_every_byte(tmp_path, how):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    flags = ["-m", "scripts.pretrain", "--data", tmp_path / "text.txt", *SMALL.split(), "--precision", "fp32"]
    flags += ["--shard", "--recompute", "--steps", "100", "--save-every", "10", "--out"]
    assert torchrun(2, *flags, tmp_path / "whole").wait(240) == 0

    # end both processes somewhere behind the first save
    run = torchrun(2, *flags, tmp_path / "cut")
    while len(checkpoint.checkpoints(tmp_path / "cut")) < 2 and run.poll() is None:
        time.sleep(0.01)
    if how == "killed":
        children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True).stdout.split()
        assert len(children) == 2
        for process in (run.pid, *map(int, children)):
            os.kill(process, signal.SIGKILL)
    else:
        run.send_signal(signal.SIGINT)
    run.wait(60)
    saved = checkpoint.checkpoints(tmp_path / "cut")
    assert saved and not (tmp_path / "cut" / "config.json").exists()

    # resume; the last save is of the last step, so it's compared as well
    assert torchrun(2, *flags, tmp_path / "cut", "--resume").wait(240) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for part in (tmp_path / "whole" / "checkpoints" / "step-100").glob("shard-*"):
        ours, theirs = load_file(part), load_file(tmp_path / "cut" / "checkpoints" / "step-100" / part.name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [[json.loads(line) for line in (tmp_path / run / "log.jsonl").open()] for run in ("cut", "whole")]
    assert [row["step"] for row in logs[0]] == list(range(1, 101))
    assert [(row["loss"], row.get("val_loss")) for row in logs[0]] == [(r["loss"], r.get("val_loss")) for r in logs[1]]


@pytest.mark.slow
def test_a_sharded_run_of_the_command_line_is_the_run_of_one_process(tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    flags = ["-m", "scripts.pretrain", "--data", tmp_path / "text.txt", *SMALL.split(), "--precision", "fp32"]
    flags += ["--dropout", "0", "--optimizer", "adamw", "--steps", "20", "--lr", "2e-3", "--out"]
    assert subprocess.run([sys.executable, *flags, tmp_path / "alone"], cwd=ROOT).returncode == 0
    assert torchrun(2, *flags, tmp_path / "split", "--shard").wait(240) == 0
    assert subprocess.run([sys.executable, *flags, tmp_path / "one", "--shard"], cwd=ROOT).returncode == 0
    alone = {path.name for path in (tmp_path / "alone").iterdir()}
    for run in ("split", "one"):
        assert {path.name for path in (tmp_path / run).iterdir()} == alone
        for name in ("config.json", "tokenizer.json", "generation_config.json", "train.npy"):
            assert (tmp_path / run / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
        weights = [load_file(tmp_path / each / "model.safetensors") for each in (run, "alone")]
        assert_close(*weights, rtol=1e-3, atol=1e-4)
        results = [json.loads((tmp_path / each / "results.json").read_text()) for each in (run, "alone")]
        assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], rel=1e-4)


@pytest.mark.claim("P4")
def test_recomputing_gives_the_same_gradients_and_keeps_fewer_bytes():
    def step(model):
        torch.manual_seed(0)
        with Live() as live:
            loss = summed_loss(model.train(), batches(8)(0), "fp32")
            kept = live.bytes()
            loss.backward()
        return kept, {name: parameter.grad for name, parameter in model.named_parameters()}

    kept, gradients = step(tiny(n_layers=4, dropout=0.3))
    fewer, same = step(recompute(tiny(n_layers=4, dropout=0.3)))
    assert_close(same, gradients, rtol=0, atol=0)
    assert fewer < kept / 3


def test_a_model_that_recomputes_still_decodes(edition):
    model = tiny()
    before = [list(stream(model, [1, 2], max_new_tokens=5, temperature=0)), model(torch.tensor([[1, 2, 3]]))]
    recompute(model)
    assert list(stream(model, [1, 2], max_new_tokens=5, temperature=0)) == before[0]
    assert torch.equal(model(torch.tensor([[1, 2, 3]])), before[1])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))


def test_processes_meet_when_their_directory_is_made_and_filled_and_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "step-1", []
    monkeypatch.setattr(shards.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(shards, "_meet", lambda: seen.append((shards.beside(path).exists(), path.exists())))
    with shards.written_together(path):
        seen.append("filled")
    assert seen == [(True, False), "filled", (True, False), (False, True)]
