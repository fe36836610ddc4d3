"""A run that is stopped in any way, at any moment, ends as if nothing had happened: by the command line itself."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TEXTS
from helpers import need

from minigpt import loop
from minigpt.files import checkpoint, writing
from scripts import pretrain
from scripts.support.command_line import run

ROOT = Path(__file__).parent.parent
SMALL = {"context-length": 48, "n-layers": 2, "d-model": 32, "d-ff": 32, "vocab-size": 300}
SMALL |= {"batch-size": 4, "dropout": 0.1}


@pytest.fixture
def flags(tmp_path) -> list[str]:
    (tmp_path / "text.txt").write_text(" ".join(TEXTS) * 60)
    return ["--data", str(tmp_path / "text.txt"), *(f"--{name}={value}" for name, value in SMALL.items())]


def call(*arguments) -> int:
    """The exit status of scripts.pretrain in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scripts.pretrain", *map(str, arguments)])
        try:
            run(pretrain.main)
        except SystemExit as end:
            return end.code
    return 0


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def same_run(left: Path, right: Path) -> None:
    """Two run directories agree in every byte but the log's times; each step is logged once."""
    ours, theirs = contents(left), contents(right)
    timed = {"log.jsonl", "results.json", "loss.png"}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if name not in timed and ours[name] != theirs[name]] == []
    logs = [[json.loads(line) for line in found["log.jsonl"].splitlines()] for found in (ours, theirs)]
    assert [row["step"] for row in logs[0]] == list(range(1, len(logs[1]) + 1))
    for log in logs:
        for row in log:
            del row["seconds"]
    assert logs[0] == logs[1]


def refused(capsys, message: str, *arguments) -> None:
    assert call(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def interrupt(patch, at: int, how=signal.SIGINT) -> None:
    """Let this process receive a signal in the middle of a step, from 1."""
    clip = loop.clip_gradients

    def clip_and_interrupt(gradients, largest):
        interrupt.steps += 1
        if interrupt.steps == at:
            signal.raise_signal(how)
        return clip(gradients, largest)

    interrupt.steps = 0
    patch.setattr(loop, "clip_gradients", clip_and_interrupt)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_gone_on_from_a_save_is_the_whole_run_in_every_byte(tmp_path, flags, optimizer):
    flags += ["--optimizer", optimizer, "--steps", 8, "--save-every", 2]
    assert call(*flags, "--out", tmp_path / "whole") == 0
    assert call(*flags, "--out", tmp_path / "cut") == 0
    for name in ("6", "checkpoints/step-6"):
        (tmp_path / "cut" / "model.safetensors").unlink()
        assert call(*flags, "--out", tmp_path / "cut", "--resume", name) == 0
        same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("save_every", [0, 3])
def test_ctrl_c_saves_the_last_whole_step_and_says_how_to_go_on(
    tmp_path, flags, monkeypatch, capsys, how, status, save_every
):
    flags += ["--steps", 8]
    assert call(*flags, "--out", tmp_path / "whole", "--save-every", 8) == 0
    before = signal.getsignal(how)
    with monkeypatch.context() as patch:
        interrupt(patch, at=5, how=how)
        assert call(*flags, "--out", tmp_path / "cut", "--save-every", save_every) == status
    assert signal.getsignal(how) is before
    said = capsys.readouterr().err
    assert "stopped after step 5" in said and "--resume" in said and f"{tmp_path}/cut/checkpoints/step-5" in said
    assert checkpoint.checkpoints(tmp_path / "cut")[-1].name == "step-5"
    assert call(*flags, "--out", tmp_path / "cut", "--save-every", 8, "--resume") == 0
    writing.remove(tmp_path / "cut" / "checkpoints" / "step-5")
    same_run(tmp_path / "cut", tmp_path / "whole")


def test_a_second_ctrl_c_during_the_save_leaves_the_earlier_save_whole(tmp_path, flags, monkeypatch):
    flags += ["--steps", 8, "--save-every", 3, "--out", tmp_path / "run"]
    write = checkpoint.write_tensors
    with monkeypatch.context() as patch:
        interrupt(patch, at=5)

        def write_and_interrupt(path, tensors):
            if "step-5" in str(path) and path.name.startswith("optimizer"):
                signal.raise_signal(signal.SIGINT)
            write(path, tensors)

        patch.setattr(checkpoint, "write_tensors", write_and_interrupt)
        assert call(*flags) == 130
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run")] == ["step-3"]
    assert call(*flags, "--resume") == 0


def test_a_loss_that_is_nan_says_step_rate_and_tensor_and_how_to_go_on(tmp_path, flags, monkeypatch, capsys):
    clip = loop.clip_gradients

    def poison(gradients, largest):
        poison.steps += 1
        if poison.steps == 5:
            gradients[2].fill_(float("nan"))
        return clip(gradients, largest)

    poison.steps = 0
    monkeypatch.setattr(loop, "clip_gradients", poison)
    message = r"step 5: loss \d.*learning rate 0.001; first .* not finite: blocks\.0\.attention\.query\.weight\."
    go_on = r".*--resume \(RESUME=1\) resumes from .*/checkpoints/step-3$"
    refused(capsys, message + go_on, *flags, "--steps", 8, "--save-every", 3, "--out", tmp_path / "run")
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run")] == ["step-3"]
    poison.steps = 0
    refused(capsys, "no save to resume from", *flags, "--steps", 8, "--save-every", 0, "--out", tmp_path / "other")


OTHER = [
    ("--lr 0.1", "lr=0.1, it was 0.004$"),
    ("--steps 9", "steps=9, it was 4$"),
    ("--seed 1", "seed=1, it was 0$"),
    ("--batch-size 5", "batch_size=5, it was 4$"),
    ("--d-ff 64", "d_ff=64, it was 32$"),
    ("--vocab-size 310", "vocab_size=310, it was 300$"),
    ("--optimizer adamw", "optimizer='adamw', it was 'muon'$"),
    ("--dropout 0", "dropout=0.0, it was 0.1$"),
    ("text.txt", "data='.*', it was '"),
    ("train.npy", "train.npy='.*', it was '"),
    ("tokenizer.json", "tokenizer.json='.*', it was '"),
]


def test_a_run_goes_on_with_its_own_settings_only(tmp_path, flags, capsys):
    flags += ["--steps", "4", "--out", str(tmp_path / "run"), "--save-every", 2]
    assert call(*flags) == 0
    before, run = contents(tmp_path), tmp_path / "run"
    for change, message in OTHER:
        if change.startswith("--"):
            refused(capsys, f"step-4: saved by another run.*: {message}", *flags, "--resume", *change.split())
        else:
            path = tmp_path / change if change == "text.txt" else run / change
            content = path.read_bytes()
            other = content[:-6] + b"\1\0" + content[-4:] if change == "train.npy" else content.replace(b"e", b"a", 1)
            path.write_bytes(other)
            refused(capsys, f"step-4: saved by another run.*{message}", *flags, "--resume")
            path.write_bytes(content)
        assert contents(tmp_path) == before, change


def test_a_text_with_brackets_in_its_name_is_compared_too(tmp_path, flags, capsys):
    text = (tmp_path / "text.txt").rename(tmp_path / "[EN] text.txt")
    flags = ["--data", text, *flags[2:], "--steps", 3, "--save-every", 1, "--out", tmp_path / "run"]
    assert call(*flags) == 0
    text.write_text("Another text. " * 400)
    refused(capsys, "saved by another run.*: data='.*', it was '", *flags, "--resume", 2)
    text.unlink()
    refused(capsys, r"text\.txt: no such file", *flags, "--resume", 2)


def test_what_can_not_be_gone_on_from_is_refused(tmp_path, flags, capsys):
    flags += ["--steps", 4, "--save-every", 1, "--out", tmp_path / "run"]
    refused(capsys, "no run to resume", *flags, "--resume")
    assert call(*flags) == 0
    refused(capsys, "no checkpoint of step 2, only of 3, 4", *flags, "--resume", 2)
    refused(capsys, "--resume soon: must be the step of a save", *flags, "--resume", "soon")
    path = tmp_path / "run" / "checkpoints" / "step-4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(capsys, f"{path}: damaged.*ask for it with resume=3$", *flags, "--resume")
    assert call(*flags, "--resume", 3) == 0
    (tmp_path / "run" / "config.json").unlink()  # as a killed run leaves it
    refused(capsys, "step-4: a run is saved here; resume it with RESUME=1 or start again with OVERWRITE=1", *flags)
    assert call(*flags, "--overwrite", "--lr", 0.001) == 0  # of the old saves none is taken for one of the new run
    settings = json.loads((path.parent / "state.json").read_text())["settings"]
    assert settings["lr"] == 0.001
    assert call(*flags, "--overwrite", "--save-every", 0) == 0
    assert not checkpoint.checkpoints(tmp_path / "run")


def test_saves_are_made_unless_they_are_declined(tmp_path, flags):
    assert call(*flags, "--steps", 20, "--out", tmp_path / "run") == 0
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run")] == ["step-18", "step-20"]
    assert call(*flags, "--steps", 2, "--save-every", 0, "--out", tmp_path / "other") == 0
    assert not checkpoint.checkpoints(tmp_path / "other")


def test_on_the_cpu_no_other_device_is_touched(tmp_path, flags, monkeypatch):
    # docs/known_bugs.md: --device=cpu that still touches CUDA
    for name in ("is_available", "_lazy_init", "device_count"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("CUDA was touched"))
    assert call(*flags, "--steps", 2, "--device", "cpu", "--out", tmp_path / "run") == 0


def test_a_device_that_is_not_there_is_refused(tmp_path, flags, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(capsys, "PyTorch finds no such device", *flags, "--device", "cuda", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_run_is_saved_and_measured_as_the_plain_model(tmp_path, flags, monkeypatch):
    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(real(model, backend="eager")) or compiled[-1])
    flags += ["--steps", 4, "--save-every", 2, "--precision", "fp32"]
    assert call(*flags, "--out", tmp_path / "plain") == 0
    assert not compiled
    assert call(*flags, "--out", tmp_path / "quick", "--compile") == 0
    assert len(compiled) == 1
    same_run(tmp_path / "plain", tmp_path / "quick")


def serve(directory: str) -> None:
    """Fork one run for each command line that is read: libraries are imported once, and a run is quickly there.

    A line: {"flags": […]} and what happens to the run: {"after": seconds} SIGKILL, counted from the moment when the
    file {"seen": path} changes; {"at": n} SIGKILL at a file operation; {"stop": n} Ctrl-C in a step. Each is answered
    with the run's exit status, which is negative for a signal.
    """
    import matplotlib.figure  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        before = changed(order["seen"])
        child = os.fork()
        if child == 0:
            with open(Path(directory) / "said.txt", "w") as sys.stdout:
                sys.stderr = sys.stdout
                if order["at"]:
                    kill_at(order["at"])
                if order["stop"]:
                    interrupt(pytest.MonkeyPatch(), order["stop"])
                os._exit(call(*order["flags"]))
        if order["after"] is not None:
            while order["seen"] and changed(order["seen"]) == before and not ended(child):
                time.sleep(0.001)
            time.sleep(order["after"])
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def changed(path: str | None) -> int | None:
    return os.stat(path).st_mtime_ns if path and os.path.exists(path) else None


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_at(number: int) -> None:
    """Kill this process at its so-manieth file operation, when tensors are half written or before anything else."""
    done = 0

    def watch(module, name: str) -> None:
        real = getattr(module, name)

        def watched(*arguments, **keywords):
            nonlocal done
            done += 1
            if done == number:
                if name == "save_file":
                    Path(arguments[1]).write_bytes(b"half of a fi")
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        setattr(module, name, watched)

    watch(writing, "save_file")
    for name in ("fsync", "replace", "mkdir", "rmdir", "unlink"):
        watch(os, name)


class Runs:
    """Runs of one command line, each in a process of its own."""

    def __init__(self, directory: Path, flags: list):
        need(os, "fork")
        command = [sys.executable, "-c", f"import test_kill; test_kill.serve({str(directory)!r})"]
        path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.server, self.flags = subprocess.Popen(command, text=True, env=path, **pipes), [*map(str, flags)]

    def __call__(self, *flags, **events) -> int:
        order = {"flags": [*self.flags, *map(str, flags)], "seen": None, "after": None, "at": None, "stop": None}
        self.server.stdin.write(json.dumps(order | events) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *_) -> None:
        self.server.communicate()


def saves(directory: Path) -> list[int]:
    """The steps of the saves that can be seen: all of them are whole."""
    found = checkpoint.checkpoints(directory)
    for save in found:
        checkpoint._check_whole(save)
    return [int(save.name.removeprefix("step-")) for save in found]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_one(tmp_path, flags):
    draw, kills, in_a_save, last = random.Random(), 0, 0, 0
    with Runs(tmp_path, [*flags, "--steps", 120, "--save-every", 1]) as runs:
        start = time.perf_counter()
        assert runs("--out", tmp_path / "whole") == 0
        whole = time.perf_counter() - start
        cut, status = tmp_path / "cut", None
        while status != 0:
            resume = ["--resume"] if saves(cut) else ["--overwrite"]
            seen = str(cut / "log.jsonl") if kills % 5 else None  # now and then before the first step
            after = draw.uniform(0, whole / 30) if kills < 25 else None  # some two steps, however fast the machine
            status = runs("--out", cut, *resume, seen=seen, after=after)
            assert status in (0, -signal.SIGKILL)
            assert [0, *saves(cut)][-1] >= last  # no kill loses a save
            last = [0, *saves(cut)][-1]
            kills += status != 0
            in_a_save += status != 0 and any(cut.glob("checkpoints/.step-*"))
    print(f"{kills} kills, {in_a_save} of them within a save")
    assert kills >= 20 and in_a_save >= 3
    same_run(cut, tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_loses_no_earlier_one(tmp_path, flags):
    moments, status, cut = 0, None, tmp_path / "cut"
    with Runs(tmp_path, [*flags, "--steps", 4, "--save-every", 1]) as runs:
        assert runs("--out", tmp_path / "whole") == 0
        assert runs("--out", tmp_path / "begun", stop=3) == 130
        assert saves(tmp_path / "begun") == [2, 3]
        while status != 0:
            shutil.rmtree(cut, ignore_errors=True)
            shutil.copytree(tmp_path / "begun", cut)
            status = runs("--out", cut, "--resume", at=moments + 1)
            if status != 0:
                assert status == -signal.SIGKILL
                assert 3 in saves(cut)
                assert runs("--out", cut, "--resume") == 0
            for unremoved in cut.glob("checkpoints/*step-2*"):  # when that is all that was left to do
                shutil.rmtree(unremoved)
            same_run(cut, tmp_path / "whole")
            moments += status != 0
    print(f"{moments} moments")
    assert moments >= 30
