"""Whatever a model file holds, `load` opens it or says what is wrong in a ValueError, in seconds and 1 GB."""

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import tokenizers
import torch
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minigpt import Tokenizer, load, save
from minigpt.files import writing
from minigpt.files.huggingface import config_from_disk, config_to_disk
from minigpt.files.tokenizer_json import to_json

ROOT = Path(__file__).parent.parent
GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True}
BYTES = [bytes([byte]) for byte in range(256)]
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
LLAMA = config_to_disk(tiny().config, "float32")


@pytest.fixture
def model(tmp_path, tok) -> Path:
    save(str(tmp_path / "model"), tiny(torch.float32, vocab_size=tok.vocab_size), tok)
    return tmp_path / "model"


@contextmanager
def time_limit(seconds: float):
    """TimeoutError when the block takes longer."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, said: str = "") -> None:
    with time_limit(5), pytest.raises(ValueError, match=f"^{path}.*{said}"):
        load(path)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- config.json


@pytest.mark.parametrize(
    "value", [None, "x", [], {}, True, 1.5, -1, 0, 1e30, 10**12, float("inf"), float("nan")], ids=str
)
@pytest.mark.parametrize(
    "key", ["vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"]
)
def test_a_size_that_is_no_whole_number_in_range_is_refused_by_its_key(key, value):
    with time_limit(1), pytest.raises(ValueError, match=f"config.json.*{key} is "):
        config_from_disk({**LLAMA, key: value})


@pytest.mark.parametrize("value", [None, "x", [], {}, True, -1, 1e30, float("nan")], ids=str)
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta", "attention_dropout"])
def test_a_number_that_is_none_or_out_of_range_is_refused_by_its_key(key, value):
    if (key, value) == ("rope_theta", None):
        return  # null there means the usual base
    with pytest.raises(ValueError, match=f"config.json.*{key} is "):
        config_from_disk({**LLAMA, key: value})


@pytest.mark.parametrize("key", ["tie_word_embeddings", "attention_bias"])
def test_a_switch_that_is_no_truth_value_is_refused(key):
    for value in (0, 1, "true", None, []):
        with pytest.raises(ValueError, match=f"{key} is "):
            config_from_disk({**LLAMA, key: value})


@pytest.mark.parametrize("kind", [[], {}, 3])
def test_a_model_type_that_is_no_text_is_refused(kind):
    with pytest.raises(ValueError, match="model_type"):
        config_from_disk({"model_type": kind})


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_type",
        ),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_theta"),
        ({"rope_scaling": {"type": "linear", "rope_type": "default"}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rotary settings"),
        ({"rope_scaling": "linear"}, "rotary settings"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
    ids=str,
)
def test_rotary_facts_that_disagree_or_are_not_ours_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        config_from_disk(LLAMA | change)


def test_a_config_without_an_attention_dropout_has_none():
    assert config_from_disk({k: v for k, v in LLAMA.items() if k != "attention_dropout"}).dropout == 0.0


def test_sizes_are_compared_with_the_tensors_before_anything_is_built(model):
    for change in ({"num_hidden_layers": 16384}, {"hidden_size": 2**24}, {"vocab_size": 2**24}):
        edit(model / "config.json", **LLAMA | {"vocab_size": 320, "head_dim": None} | change)
        refused(model, "the tensor .* (is missing|has shape)")


# ---- JSON


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}', b'"text"', b"\xff\xfe", b"\x00",
        b'{"a": "\\ud800"}', b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_a_json_file_of_any_content_is_refused_by_name(model, name, content):
    (model / name).write_bytes(content)
    refused(model, name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_pipe_or_a_device_is_never_read(model, name):
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        (model / name).unlink()
        make(model / name)
        refused(model, f"{name}: must be a file")
        (model / name).rmdir() if (model / name).is_dir() else None
        (model / name).touch()
    os.mkfifo(model.parent / "pipe.gguf")
    refused(model.parent / "pipe.gguf", "must be a file")
    refused(Path("/dev/zero"), "must be a file")


# ---- parts and weights


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": None}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}},
     {"weight_map": {"a": "../model.safetensors"}},
     {"weight_map": {"a": "/dev/zero"}}, {"weight_map": {"a": ".."}}],
    ids=str,
)  # fmt: skip
def test_an_index_that_names_no_files_of_its_directory_is_refused(model, index):
    (model / "model.safetensors").rename(model.parent / "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(model, "(weight_map|must be a file)")


def test_a_tensor_in_two_parts_is_refused(model):
    (model / "model.safetensors").rename(model / "one.safetensors")
    save_file({"lm_head.weight": torch.zeros(2), "model.norm.weight": torch.zeros(2)}, model / "two.safetensors")
    parts = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(parts))
    refused(model, "model.norm.weight is in another part")


def test_a_tied_head_that_is_another_matrix_is_refused(model):
    weights = load_file(model / "model.safetensors")
    same = weights["model.embed_tokens.weight"].clone()
    save_file(weights | {"lm_head.weight": same}, model / "model.safetensors")
    load(model)
    save_file(weights | {"lm_head.weight": same + 1}, model / "model.safetensors")
    refused(model, "lm_head.weight is not the embedding")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int64, torch.uint8, torch.bool], ids=str)
def test_weights_that_are_no_numbers_of_16_to_64_bits_are_refused(model, dtype):
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(dtype)
    save_file(weights, model / "model.safetensors")
    refused(model, f"model.norm.weight is of {dtype}")


# ---- writing


def test_the_flags_of_a_written_tokenizer_are_those_that_tokenizers_writes_for_special_tokens(tok):
    content = json.loads(to_json(tok))
    theirs = json.loads(tokenizers.Tokenizer.from_str(to_json(tok)).to_str())
    assert content["added_tokens"] == theirs["added_tokens"]
    assert not any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in content["added_tokens"])
    started = json.loads(to_json(Tokenizer(BYTES, {"<s>": 256}, end="<s>", start=[256])))["post_processor"]
    assert [piece.get("type_id") for part in started["single"] for piece in part.values()] == [0, 0]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    writing.write_text(tmp_path / "a.txt", "x")
    assert done == ["fsync", "replace", "fsync"]


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(LLAMA)), inner, max_size=4),
    ),
    st.sampled_from(sorted(LLAMA)),
)
def test_any_json_in_place_of_a_value_or_of_the_whole_config_is_refused_or_obeyed(value, key):
    for content in ({**LLAMA, key: value}, value if isinstance(value, dict) else {}):
        try:
            config_from_disk(content)
        except ValueError as problem:
            assert "config.json" in str(problem) or "must be" in str(problem)
