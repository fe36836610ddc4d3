"""Whatever a model file holds, `load` opens it or says what is wrong in a ValueError, in seconds and 1 GB."""

import copy
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import tokenizers
import torch
from conftest import TEXTS, tiny
from helpers import call, need
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_real_models import random_llama, trained, write_gguf

from minigpt import Tokenizer, load, save
from minigpt.files import writing
from minigpt.files.gguf import NUMBERS
from minigpt.files.huggingface import config_from_disk, config_to_disk
from minigpt.files.reading import errors_of
from minigpt.files.tokenizer_json import from_json, to_json
from minigpt.tokenizer import SPECIAL_TOKENS
from scripts import generate as generate_command
from scripts import tokens as tokens_command
from scripts.support.run_directory import save_anew
from sft import Message, encode_conversation

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

    if not hasattr(signal, "SIGALRM"):  # Windows: pytest's own limit has to do
        yield
        return
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


def test_a_short_name_is_no_path_and_load_says_who_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^smollm is missing: load takes a path; only commands"):
        load("smollm")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_pipe_or_a_device_is_never_read(model, name):
    for make in (need(os, "mkfifo"), lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        (model / name).unlink()
        make(model / name)
        refused(model, f"{name}: must be a file")
        (model / name).rmdir() if (model / name).is_dir() else None
        (model / name).touch()
    need(os, "mkfifo")(model.parent / "pipe.gguf")
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
    parts = {"model.norm.weight": "one.safetensors", "lm_head.weight": "two.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    refused(model, "model.norm.weight is in another part")


def test_an_index_that_says_more_than_its_parts_hold_is_refused(model):
    (model / "model.safetensors").rename(model / "one.safetensors")
    parts = dict.fromkeys(load_file(model / "one.safetensors"), "one.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    load(model)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts | {"more": "one.safetensors"}}))
    refused(model, "weight_map says that more is in one.safetensors, which lacks it")


def test_one_tensor_in_double_precision_makes_all_of_them_so(model):
    weights = load_file(model / "model.safetensors")
    before = load(model)[0](torch.tensor([[1, 2, 3]]))
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"].double()}, model / "model.safetensors")
    opened, _ = load(model)
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.float64}
    torch.testing.assert_close(opened(torch.tensor([[1, 2, 3]])).float(), before)
    assert {parameter.dtype for parameter in load(model, torch.float32)[0].parameters()} == {torch.float32}


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


# ---- what stands beside the tokenizer


@pytest.mark.parametrize(
    "value", [5, 0, False, True, [], {}, ["<|endoftext|>"], {"content": 5}, {"name": "x"}, "nope"], ids=str
)
@pytest.mark.parametrize("key", ["eos_token", "bos_token", "pad_token"])
def test_a_special_token_that_is_none_is_refused_by_its_key(model, key, value):
    edit(model / "tokenizer_config.json", **{key: value})
    refused(model, f"{key} is .*; the tokenizer has no such special token")


@pytest.mark.parametrize(
    "change, said",
    [
        *(({key: "<new>"}, f"{key} is '<new>'") for key in ("cls_token", "sep_token", "mask_token")),
        ({"unk_token": "a"}, "unk_token is 'a'"),
        ({"additional_special_tokens": ["<new>"]}, "additional_special_tokens is '<new>'"),
        ({"extra_special_tokens": {"image_token": {"content": "<new>"}}}, "extra_special_tokens is '<new>'"),
        ({"added_tokens_decoder": {"320": {"content": "<new>"}}}, "the added token 320"),
        ({"added_tokens_decoder": {"0": {"content": "<|endoftext|>"}}}, "the added token 0"),
        ({"add_prefix_space": True}, "add_prefix_space is True"),
        ({"split_special_tokens": True}, "split_special_tokens is True"),
    ],
    ids=str,
)
def test_settings_by_which_a_text_would_get_other_ids_are_refused(model, change, said):
    edit(model / "tokenizer_config.json", **change)
    refused(model, said)


def test_an_unknown_token_that_is_nowhere_is_for_other_kinds_of_tokenizers(model):
    edit(model / "tokenizer_config.json", unk_token="<unk>")
    save(model / "again", *load(model))
    assert "unk_token" not in json.loads((model / "again" / "tokenizer_config.json").read_text())


def test_a_special_token_with_spaces_around_it_is_refused_in_every_file(model, tok):
    end = {"content": "<|endoftext|>", "rstrip": True}
    edit(model / "tokenizer_config.json", added_tokens_decoder={str(tok.end_id): end})
    refused(model, f"the added token {tok.end_id}")


@pytest.mark.parametrize("value", [True, 1.0, "1", -1, 10**6, [1], {}], ids=str)
@pytest.mark.parametrize("key", ["bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_id_that_is_none_is_refused_by_file_and_key(model, name, key, value):
    edit(model / name, **{key: value})
    refused(model, f"{name}: {key} is ")


@pytest.mark.parametrize("write", [save, save_anew])
def test_files_of_older_programs_are_obeyed_and_not_left_beside_a_new_model(model, tok, write):
    (model / "special_tokens_map.json").write_text('{"eos_token": "<|response|>"}')
    assert load(model)[1].end == "<|response|>"
    (model / "added_tokens.json").write_text('{"<new>": 320}')
    refused(model, "the added token 320")
    edit(model / "tokenizer_config.json", added_tokens_decoder={})
    assert load(model)[1].end == "<|endoftext|>"
    write(model, *load(model))
    assert not {"special_tokens_map.json", "added_tokens.json"} & {path.name for path in model.iterdir()}


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
)
def test_a_link_that_leads_nowhere_is_a_file_that_is_missing(model, name):
    (model / name).unlink(missing_ok=True)
    load(model)
    (model / name).symlink_to(model / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"^{model / name} is missing"):
        load(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_byte_order_mark_before_json_is_no_error(model, name):
    (model / name).write_bytes(b"\xef\xbb\xbf" + (model / name).read_bytes())
    load(model)


# ---- tokenizers


def changed(content: dict, path: list, value) -> str:
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize("ids, right", [((300, 301, 302), True), ((301, 300, 302), False), ((302, 303, 304), False)])
def test_added_tokens_that_the_vocabulary_lacks_must_have_the_next_ids_as_tokenizers_gives_them(ids, right):
    content = json.loads(trained(digits=False).to_str())
    known = content["model"]["vocab"]
    for token in content["added_tokens"]:
        del known[token["content"]]
    content["model"]["vocab"] = {name: i for i, name in enumerate(sorted(known, key=known.get))}
    for token, i in zip(content["added_tokens"], ids):
        token["id"] = i - 300 + len(known)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    told = {token["content"]: token["id"] for token in content["added_tokens"]}
    assert ({name: theirs.token_to_id(name) for name in told} == told) == right
    if right:
        assert from_json(json.dumps(content)).special == told
    else:
        with pytest.raises(ValueError, match="the added token"):
            from_json(json.dumps(content))


START = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SECOND = {"Sequence": {"id": "B", "type_id": 0}}
KNOWN = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}


@pytest.mark.parametrize(
    "path, value",
    [
        *((["model", "type"], kind) for kind in ("WordPiece", "WordLevel", "Unigram")),
        (["model", "continuing_subword_prefix"], "##"),
        (["model", "dropout"], 0.1),
        (["truncation"], {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}),
        (["padding"], {"strategy": {"Fixed": 8}}),
        (["pre_tokenizer"], None),
        (["model", "merges"], []),
        (["model", "merges", 0], ["a", None]),
        (["model", "vocab", "a"], 1.5),
        (["model", "vocab", "a"], True),
        (["model", "vocab", "a"], -1),
        (["model", "vocab", "a"], 10**12),
        (["model", "vocab", "a"], 5),
        (["model", "vocab", ""], 300),
        (["model", "vocab", "a" * 200_000], 300),
        *((["added_tokens", 0, "content"], value) for value in (None, 1.5, 3, [], "", "a")),
        *((["added_tokens", 0, "id"], value) for value in (None, 1.5, "3", True, -1, 1, 10**12)),
        *((["added_tokens", 0, "special"], value) for value in (False, None, 1)),
        (["added_tokens"], None),
        (["post_processor"], {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        (["post_processor"], {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
        (["post_processor"], dict(type="TemplateProcessing", single=[START, TEXT, START], special_tokens=KNOWN)),
        (["post_processor"], dict(type="TemplateProcessing", single=[TEXT, START], special_tokens=KNOWN)),
        (["post_processor"], dict(type="TemplateProcessing", single=[START, TEXT], special_tokens={})),
        (["post_processor"], dict(type="TemplateProcessing", single=[SECOND], special_tokens={})),
        *((["added_tokens", 0, flag], True) for flag in ("single_word", "lstrip", "rstrip")),
        (["version"], "9.9"),
        (["model", "ignore_merges"], "yes"),
        (["model", "merges", 0], ["a", "b", "c"]),
    ],
    ids=lambda value: f"{value!r:.50}",
)
def test_a_tokenizer_that_would_give_other_ids_is_refused(path, value):
    content = json.loads(trained(digits=False).to_str())
    from_json(json.dumps(content))
    with time_limit(5), pytest.raises(ValueError, match=r"^tokenizer\.json"):
        from_json(changed(content, path, value))


@pytest.mark.parametrize("length, fits", [(1000, True), (1001, False)])
def test_a_token_of_more_than_1000_bytes_is_refused_also_where_no_merge_has_to_make_it(length, fits):
    content = json.loads(trained(digits=False).to_str())
    content["model"] |= {"ignore_merges": True, "vocab": content["model"]["vocab"] | {"a" * length: 10_000}}
    if fits:
        assert from_json(json.dumps(content)).encode("a" * length) == [10_000]
    else:
        with pytest.raises(ValueError, match=r"^tokenizer\.json: a token must have from 1 to 1000 bytes"):
            from_json(json.dumps(content))


def test_our_own_tokenizer_may_have_another_begin_token_and_none_that_is_not_understood(tmp_path):
    tok = Tokenizer(BYTES, [*SPECIAL_TOKENS, "<s>"], start=[259])
    ids, learn = encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])
    assert ids[0] == 259 and not learn[0]
    again = from_json(to_json(tok))
    assert (again.start, encode_conversation(again, [Message("user", "Hi")])[0]) == ([259], ids[:5])
    assert tokenizers.Tokenizer.from_str(to_json(tok)).encode("Hi").ids == [259, *b"Hi"]
    assert from_json(to_json(Tokenizer(BYTES))).start == [256]
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        from_json(changed(json.loads(to_json(tok)), ["post_processor"], {"type": "TemplateProcessing", "single": []}))


def with_split(pattern: str) -> str:
    content = json.loads(trained(digits=False).to_str())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(content | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, last]}})


@pytest.mark.parametrize(
    "pattern",
    [r"(\s+)|\S+", r"\s*", "", r"(?:\S+)+x|\s+|\S", r"(a+)+b|\s|\S", r"\S*\S*\S*\S*\S*x|\s|\S", r"\p{L}+", "[",
     r"\p{N}{1,3}+|\s|\S",
     r"^\S+|\s|\S", r"\S+$|\s|\S", r"(?!\S)|\s+|\S", r"(?m).+|\s+", r"\h+|\s|\S", "a" * 9999, r"(?<=a)b|\s|\S"],
    ids=lambda pattern: pattern[:30],
)  # fmt: skip
def test_a_split_that_loses_text_backtracks_or_is_read_differently_elsewhere_is_refused(pattern):
    with time_limit(5), pytest.raises(ValueError, match="the split"):
        from_json(with_split(pattern))


@pytest.mark.parametrize("pattern", [r"\s+|\S+", r"\p{N}{1,2}| ?[^\s\p{N}]+|\s+(?!\S)|\s+", CL100K.replace("}+", "}")])
def test_a_split_that_all_read_alike_gives_the_ids_of_the_reference(pattern):
    theirs = tokenizers.Tokenizer.from_str(with_split(pattern))
    ours = from_json(with_split(pattern))
    for text in TEXTS[:2]:
        assert ours.encode(text) == theirs.encode(text).ids


def test_tiktokens_possessive_split_is_saved_so_that_tokenizers_cuts_alike():
    tok = Tokenizer([*BYTES, b"12", b"123"], split=CL100K)
    theirs = tokenizers.Tokenizer.from_str(to_json(tok))
    for text in ("1234567", "12 1234 x", "a  \n\n b  "):
        assert theirs.encode(text).ids == tok.encode(text)
    assert from_json(to_json(tok)).encode("1234567") == tok.encode("1234567")
    with pytest.raises(ValueError, match="the split"):
        to_json(Tokenizer(BYTES, split=r"(\s+)|\S+"))


def test_a_token_that_no_merge_makes_is_saved_and_loaded():
    tok = Tokenizer([*BYTES, b"abc"])
    theirs = tokenizers.Tokenizer.from_str(to_json(tok))
    assert theirs.encode("abc").ids == tok.encode("abc") == from_json(to_json(tok)).encode("abc") == [256]
    content = json.loads(to_json(tok))
    del content["model"]["ignore_merges"]  # then no text has this token
    with pytest.raises(ValueError, match="'abc'"):
        from_json(json.dumps(content))


def test_holes_between_the_ids_are_saved_and_loaded():
    tok = Tokenizer(BYTES, {"<|endoftext|>": 300})
    again = from_json(to_json(tok))
    assert (again.vocab_size, again.special, again.encode("hi")) == (301, tok.special, tok.encode("hi"))


def test_the_flags_of_a_written_tokenizer_are_those_that_tokenizers_writes_for_special_tokens(tok):
    content = json.loads(to_json(tok))
    theirs = json.loads(tokenizers.Tokenizer.from_str(to_json(tok)).to_str())
    assert content["added_tokens"] == theirs["added_tokens"]
    assert not any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in content["added_tokens"])
    started = json.loads(to_json(Tokenizer(BYTES, {"<s>": 256}, end="<s>", start=[256])))["post_processor"]
    assert [piece.get("type_id") for part in started["single"] for piece in part.values()] == [0, 0]
    assert [piece.get("type_id") for part in started["pair"] for piece in part.values()] == [0, 0, 0]


# ---- GGUF


@pytest.fixture
def gguf_file(tmp_path) -> Path:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    shape = dict(vocab_size=trained(digits=True).get_vocab_size(), hidden_size=64, num_key_value_heads=2)
    rope = dict(rope_type="default", rope_theta=500_000.0)
    write_gguf(tmp_path / "model.gguf", random_llama(dtype=torch.float32, rope_parameters=rope, **shape), {})
    return tmp_path / "model.gguf"


def test_counts_and_lengths_beyond_a_gguf_file_are_refused_at_once(gguf_file):
    whole = gguf_file.read_bytes()
    huge = struct.pack("<Q", 2**60)
    for at in (8, 16, 24, *(whole.index(word) + len(word) + 8 for word in (b"ggml.tokens", b"ggml.merges"))):
        gguf_file.write_bytes(whole[:at] + huge + whole[at + 8 :])
        refused(gguf_file)


def test_tensors_that_share_bytes_or_reach_out_of_a_gguf_file_are_refused(gguf_file):
    whole = gguf_file.read_bytes()
    at = whole.index(b"token_embd.weight") + 17 + 4  # its two sizes, its type, its offset
    for place, value in ((at, 2**40), (at + 8, 2**62), (at + 20, 2**50)):
        gguf_file.write_bytes(whole[:place] + struct.pack("<Q", value) + whole[place + 8 :])
        refused(gguf_file)
    wider = struct.pack("<I", 28)  # of 8 bytes a number in place of 4: it reaches into what belongs to the others
    gguf_file.write_bytes(whole[: at + 16] + wider + whole[at + 20 :])
    refused(gguf_file, "shares its bytes with another")


def field(name: str, value: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<II", 4, value)


def test_partial_rotary_is_refused_in_gguf(gguf_file):
    whole = gguf_file.read_bytes()
    name = "llama.rope.dimension_count"
    filler = "x" * (-(len(field(name, 0)) + 16) % 32)
    for turned in (8, 16):
        two = with_two(whole, field(name, turned) + field(filler, 0))
        gguf_file.write_bytes(two)
        if turned == 16:
            load(gguf_file)
        else:
            refused(gguf_file, "dimension_count is 8")


def with_two(whole: bytes, added: bytes) -> bytes:
    (count,) = struct.unpack("<Q", whole[16:24])
    return whole[:16] + struct.pack("<Q", count + 2) + added + whole[24:]


@pytest.mark.parametrize(
    "key, value",
    [
        ("llama.attention.key_length", 8),
        ("llama.attention.value_length", 8),
        ("llama.rope.scaling.factor", 4),
        ("llama.rope.scale_linear", 4),
        ("llama.expert_count", 8),
        *((f"tokenizer.ggml.{role}_token_id", value) for role in ("eot", "eom", "padding") for value in (5, 10**6)),
        ("tokenizer.chat_template", 5),
        ("tokenizer.ggml.add_eos_token", 1),
    ],
)
def test_a_fact_in_gguf_that_is_wrong_or_would_change_what_is_computed_is_refused(gguf_file, key, value):
    filler = "x" * (-(len(field(key, 0)) + 16) % 32)
    gguf_file.write_bytes(with_two(gguf_file.read_bytes(), field(key, value) + field(filler, 0)))
    refused(gguf_file, key.split(".")[-1].removeprefix("add_eos_"))


@pytest.mark.parametrize(
    "key, kind, value",
    [
        *(("tokenizer.ggml.add_bos_token", kind, value) for kind, value in ((8, b"yes"), (8, b""), (4, 1), (6, 0.0))),
        ("tokenizer.ggml.add_eos_token", 8, b""),
        ("tokenizer.chat_template", 7, True),
        ("tokenizer.ggml.unknown_token_id", 5, -1),
        ("tokenizer.ggml.cls_token_id", 6, 1.0),
        ("tokenizer.ggml.mask_token_id", 8, b"1"),
        ("llama.rope.dimension_count", 6, 16.0),
        ("llama.expert_count", 7, False),
        ("llama.logit_scale", 6, 4.0),
        ("llama.attention.causal", 7, False),
        ("llama.block_count", 4, 2),  # it is there already
        ("tokenizer.ggml.merges", 8, b"a b"),
    ],
)
def test_a_field_of_gguf_of_another_kind_unknown_or_there_twice_is_refused_by_its_key(gguf_file, key, kind, value):
    held = struct.pack("<Q", len(value)) + value if kind == 8 else struct.pack("<" + NUMBERS[kind], value)
    added = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + held
    filler = "x" * (-(len(added) + 16) % 32)
    gguf_file.write_bytes(with_two(gguf_file.read_bytes(), added + field(filler, 0)))
    refused(gguf_file, f"{key} is ")


def test_token_types_in_gguf_that_are_no_whole_numbers_are_refused(gguf_file):
    whole = gguf_file.read_bytes()
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 4
    gguf_file.write_bytes(whole[:at] + struct.pack("<I", 6) + whole[at + 4 :])
    refused(gguf_file, "token_type is .* as list of int")


@pytest.mark.parametrize("role", ["eos", "bos"])
def test_an_end_or_a_begin_in_gguf_that_is_no_special_token_is_refused(gguf_file, role):
    whole = gguf_file.read_bytes()
    at = whole.index(f"tokenizer.ggml.{role}_token_id".encode()) + len(f"tokenizer.ggml.{role}_token_id") + 4
    for wrong in (5, 166, 10**6, 2**32 - 1):
        gguf_file.write_bytes(whole[:at] + struct.pack("<I", wrong) + whole[at + 4 :])
        refused(gguf_file, f"{role}_token_id is {wrong}; must be the id of a special token")


def test_rows_of_gguf_that_are_marked_as_unused_are_never_drawn_and_user_defined_ones_are_refused(gguf_file):
    whole = gguf_file.read_bytes()
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 4 + 4 + 8
    gguf_file.write_bytes(whole[:at] + struct.pack("<I", 5) + whole[at + 4 :])
    model, tok = load(gguf_file)
    assert model.spare_ids == [0] and 0 not in tok.special_names
    gguf_file.write_bytes(whole[:at] + struct.pack("<I", 4) + whole[at + 4 :])
    refused(gguf_file, "no token that a user has defined")


def test_two_tensors_of_one_name_and_an_alignment_of_nothing_are_refused_in_gguf(gguf_file):
    whole = gguf_file.read_bytes()
    for wrong in (
        whole.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", 1),
        with_two(whole, field("general.alignment", 0) + field("x", 0)),
    ):
        gguf_file.write_bytes(wrong)
        refused(gguf_file, "two tensors of one name, or alignment=")


def test_heads_that_do_not_divide_are_refused_in_gguf(gguf_file):
    whole = gguf_file.read_bytes()
    at = whole.index(b"llama.attention.head_count") + len("llama.attention.head_count") + 4
    for heads in (0, 3, 64, 2**31):
        gguf_file.write_bytes(whole[:at] + struct.pack("<I", heads) + whole[at + 4 :])
        refused(gguf_file)


def test_without_the_package_gguf_the_message_says_what_to_install(gguf_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(gguf_file, "install the package gguf")


class PanicException(BaseException):
    """As libraries in Rust raise it."""


def test_a_panic_of_a_library_becomes_an_error_of_the_file_and_ctrl_c_stays_what_it_is(tmp_path):
    for raised, expected in ((PanicException("lost"), ValueError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(expected) as told, errors_of(tmp_path):
            raise raised
        assert expected is KeyboardInterrupt or str(told.value) == f"{tmp_path}: PanicException: lost"


# ---- many malformed files

VALUES = [None, "x", "", [], {}, True, False, -1, 0, 1, 1.5, 1e30, 10**12, [[]], {"a": 1}, "\ud800", "9" * 300]


def paths_in(value: object, path: tuple = ()) -> list[tuple]:
    """All places in a JSON value; of a long object or list, the first and the last ones."""
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    inner = inner if len(inner) < 20 else inner[:3] + inner[-3:]
    return [place for key, part in inner for place in [(*path, key), *paths_in(part, (*path, key))]]


def malform(draw: random.Random, source: dict[str, bytes]) -> tuple[str, bytes]:
    """One file of a small valid model, changed in one way."""
    name = draw.choice(sorted(source))
    content = source[name]
    if name.endswith(".json") and draw.random() < 0.75:
        value = json.loads(content)
        *place, key = draw.choice(paths_in(value))
        inner = value
        for step in place:
            inner = inner[step]
        if draw.random() < 0.15:
            del inner[key]
        else:
            inner[key] = draw.choice(VALUES)
        return name, json.dumps(value).encode()
    at, junk = (
        draw.randrange(min(len(content), draw.choice([8, 100, 3000, 10**9]))),
        draw.randbytes(draw.choice([1, 4, 8, 90])),
    )
    ways = [
        content[:at],
        content[:at] + junk + content[at:],
        content[:at] + junk + content[at + len(junk) :],
        junk,
        b"",
        content * 2,
    ]
    return name, draw.choice(ways)


def outcome(path: Path, limit: float = 5) -> str:
    """What `load` does with a model: "refused" in one clear line, "opened" soundly, or what must not happen."""
    started = time.perf_counter()
    try:
        with time_limit(2 * limit):
            model, tok = load(path)
    except (ValueError, FileNotFoundError) as problem:
        if isinstance(problem.__cause__, TimeoutError) or time.perf_counter() - started > limit:
            return "hang"
        clear = str(problem).startswith(str(path)) and len(str(problem)) < 1000 and "\n" not in str(problem)
        return "refused" if clear else f"unclear: {problem!r:.300}"
    except BaseException as problem:
        return f"traceback: {problem!r:.300}"
    if time.perf_counter() - started > limit:
        return "hang"

    # opened: then it must work
    try:
        with time_limit(2 * limit):
            ids = tok.encode("Ada lives")[:9] if tok else [1, 2]
            assert tok is None or tok.decode(ids) == "Ada lives"[: len(tok.decode(ids))]
            if max(ids) < model.vocab_size:
                assert model(torch.tensor([ids])).shape == (1, len(ids), model.vocab_size)
            if tok is not None and tok.end in tok.special:
                save(path.parent / "again", model, tok)
                assert load(path.parent / "again")[1].encode("Ada lives") == tok.encode("Ada lives")
    except BaseException as problem:
        return f"wrongly accepted: {problem!r:.300}"
    return "opened"


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tok) -> list[dict[str, bytes]]:
    """The files of small valid models: Llama's family, GPT-2's, ours, another's tokenizer, and GGUF."""
    made = []
    for switches in ({}, GPT2, {"norm": "layernorm"}):
        directory = tmp_path_factory.mktemp("valid")
        save(directory, tiny(torch.float32, vocab_size=tok.vocab_size, **switches), tok)
        made.append({path.name: path.read_bytes() for path in directory.iterdir()})
    made.append(
        made[0]
        | {"tokenizer.json": with_split(r"\s+|\S+").encode(), "tokenizer_config.json": b'{"eos_token": "<|im_end|>"}'}
    )
    try:
        import gguf  # noqa: F401
    except ImportError:
        return made
    shape = dict(vocab_size=trained(digits=True).get_vocab_size(), hidden_size=64, num_key_value_heads=2)
    rope = dict(rope_type="default", rope_theta=500_000.0)
    path = tmp_path_factory.mktemp("valid") / "model.gguf"
    write_gguf(path, random_llama(dtype=torch.float32, rope_parameters=rope, **shape), {})
    return [*made, {"model.gguf": path.read_bytes()}]


def written(directory: Path, source: dict[str, bytes]) -> Path:
    writing.remove(directory)
    directory.mkdir()
    for name, content in source.items():
        (directory / name).write_bytes(content)
    return directory / "model.gguf" if "model.gguf" in source else directory


def fuzz(count: int, seed: int, directory: Path, sources: list[dict[str, bytes]]) -> Counter:
    draw, seen = random.Random(seed), Counter()
    for _ in range(count):
        source = draw.choice(sources)
        changed = dict([malform(draw, source)])
        seen[outcome(written(directory, source | changed))] += 1
    return seen


@pytest.mark.parametrize("seed", range(3))
def test_of_malformed_files_each_is_refused_in_one_line_or_opened_soundly(tmp_path, sources, seed):
    seen = fuzz(100, seed, tmp_path / "model", sources)
    print(seen)
    assert set(seen) <= {"refused", "opened"}
    assert seen["refused"] > 40


@pytest.mark.slow
def test_of_two_thousand_malformed_files_each_is_refused_or_opened_soundly(tmp_path, sources):
    seen = fuzz(2000, 99, tmp_path / "model", sources)
    print(seen)
    assert set(seen) <= {"refused", "opened"}


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


def command_lines(count: int, directory: Path, sources: list[dict[str, bytes]], monkeypatch, capsys) -> Counter:
    """Malformed models through `generate` and `tokens`: by their exit status and what they say."""
    draw, seen = random.Random(count), Counter()
    for _ in range(count):
        source = draw.choice(sources)
        path = written(directory, source | dict([malform(draw, source)]))
        commands = [(generate_command, "--model", path, "--prompt", "Ada", "--max-new-tokens", 2)]
        if path.is_dir():
            commands.append((tokens_command, "--model", path, "--text", "Ada"))
        with time_limit(20):
            status = call(monkeypatch, *draw.choice(commands))
        said = capsys.readouterr().err.strip().splitlines()
        clear = status == 0 or (status == 2 and len(said) == 1 and len(said[0]) < 1200)
        seen["one clear line" if status and clear else "ran" if clear else f"unclear: {status} {said}"] += 1
    return seen


def test_commands_say_in_one_line_what_is_wrong_with_a_model(tmp_path, sources, monkeypatch, capsys):
    seen = command_lines(30, tmp_path / "model", sources, monkeypatch, capsys)
    assert set(seen) <= {"one clear line", "ran"}
    assert seen["one clear line"] > 10


@pytest.mark.slow
def test_commands_say_in_one_line_what_is_wrong_with_many_models(tmp_path, sources, monkeypatch, capsys):
    seen = command_lines(300, tmp_path / "model", sources, monkeypatch, capsys)
    print(seen)
    assert set(seen) <= {"one clear line", "ran"}


@pytest.mark.slow
def test_opening_a_small_file_takes_little_memory(tmp_path, gguf_file):
    """A file of under 1 MB that claims to hold much: the child may take 1 GB more than PyTorch itself."""
    pytest.importorskip("resource")
    whole = gguf_file.read_bytes()
    (tmp_path / "big.gguf").write_bytes(whole[:8] + struct.pack("<QQ", 2**40, 2**40) + whole[24:])
    code = (
        "import resource, sys, minigpt\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: minigpt.load(sys.argv[1])\nexcept ValueError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "big.gguf"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(said.stdout) < 1_000_000
