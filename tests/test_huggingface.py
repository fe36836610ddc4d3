"""A run directory is a Hugging Face model directory: `transformers` opens it and sees the same model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, tiny
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from decoding import generate
from minigpt import GPTConfig, load, save
from minigpt.files.huggingface import config_from_disk, config_to_disk

logging.set_verbosity_error()
ROOT = Path(__file__).parent.parent
GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True}
VARIANTS = {
    "toy": {},
    "gpt2": GPT2,
    "gpt2, untied": {**GPT2, "tie_embeddings": False},
    "grouped heads": {"n_kv_heads": 2},
    "one key head": {"n_kv_heads": 1},
    "untied": {"tie_embeddings": False},
    "bias": {"bias": True},
    "another base and eps": {"rope_theta": 500.0, "norm_eps": 1e-3},
    "all at once": {"n_kv_heads": 2, "tie_embeddings": False, "bias": True, "rope_theta": 500_000.0},
}


@pytest.fixture(params=VARIANTS)
def saved(request, tmp_path, tok):
    model = tiny(torch.float32, vocab_size=tok.vocab_size, context_length=64, **VARIANTS[request.param])
    save(tmp_path, model, tok)
    return model, tmp_path


@pytest.mark.claim("P2")
def test_transformers_gives_the_same_logits(saved):
    model, directory = saved
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = torch.randint(model.config.vocab_size, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert_close(model(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)
    assert theirs.num_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_transformers_continues_a_prompt_with_the_same_text(saved, tok):
    model, directory = saved
    theirs, their_tok = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    for text in ("Ada lives", "the newer"):
        prompt = tok.encode(text)
        (ours,) = generate(model, [prompt], max_new_tokens=20, temperature=0, eos_id=tok.special["<|endoftext|>"])
        whole = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20)[0].tolist()
        assert whole == prompt + ours.ids
        assert their_tok.decode(whole) == tok.decode(prompt + ours.ids)


@pytest.mark.claim("P1")
@pytest.mark.parametrize("text", [*TEXTS, " a  b\n\n  c ", "aaaaaaaaaaa", "I'll pay 1,000 € — 🙂!"])
def test_transformers_tokenizer_gives_the_same_ids_and_text(tmp_path, tok, text):
    save(tmp_path, tiny(vocab_size=tok.vocab_size), tok)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text)["input_ids"] == tok.encode(text)
    assert theirs.decode(tok.encode(text)) == text
    assert theirs.eos_token_id == tok.special["<|endoftext|>"]
    assert len(theirs) == tok.vocab_size


@pytest.mark.parametrize("bias", [False, True])
def test_a_llama_that_transformers_saved_is_opened(tmp_path, bias):
    torch.manual_seed(0)
    shape = dict(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            **shape,
            num_key_value_heads=2,
            attention_bias=bias,
            mlp_bias=bias,
            rope_theta=777.0,
            max_position_embeddings=32,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours, tokenizer = load(tmp_path)
    assert tokenizer is None
    assert (ours.config.rope_theta, ours.context_length, ours.config.n_kv_heads) == (777.0, 32, 2)
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_rotary_scaling_that_we_do_not_have_is_refused():
    content = config_to_disk(GPTConfig.toy(), "float32")
    del content["rope_theta"]
    rope = {"rope_theta": 500_000.0, "rope_type": "llama3", "factor": 8.0}
    with pytest.raises(ValueError, match="llama3"):
        config_from_disk({**content, "rope_parameters": rope})


def test_a_bias_in_one_half_of_a_block_is_refused():
    content = config_to_disk(GPTConfig.toy(), "float32")
    with pytest.raises(ValueError, match="mlp_bias"):
        config_from_disk({**content, "mlp_bias": True})


def test_every_mix_of_switches_comes_back_from_its_config(switches):
    config = tiny(dropout=0.125, rope_theta=123.0, norm_eps=1e-3, **switches).config
    content = json.loads(json.dumps(config_to_disk(config, "float32")))
    gpt2 = content["model_type"] == "gpt2"  # which has no rotary base to write down
    assert config_from_disk(content) == (replace(config, rope_theta=10_000.0) if gpt2 else config)
    llama = (config.norm, config.position, config.mlp) == ("rmsnorm", "rope", "swiglu")
    learned = (config.norm, config.position, config.mlp) == ("layernorm", "learned", "gelu")
    assert gpt2 == (learned and config.bias and config.n_kv_heads == config.n_heads)
    assert content["model_type"] == ("llama" if llama else "gpt2" if gpt2 else "minigpt")


def test_a_model_that_transformers_can_not_open_says_so_in_its_directory(tmp_path):
    save(tmp_path, tiny(norm="layernorm"), None)
    assert "transformers has no" in json.loads((tmp_path / "config.json").read_text())["note"]
    with pytest.raises(ValueError, match="model type `minigpt`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert load(tmp_path)[0].config.norm == "layernorm"


@pytest.mark.parametrize("kind", ["bert", "mamba", None])
def test_an_architecture_that_we_do_not_have_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"model_type {kind!r} is not supported"):
        config_from_disk({"model_type": kind})


@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers", "rms_norm_eps"])
def test_a_config_without_a_key_is_refused_by_the_key(key):
    content = config_to_disk(GPTConfig.toy(), "float32")
    del content[key]
    with pytest.raises(ValueError, match=f"llama.*'{key}' is missing"):
        config_from_disk(content)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_tensor_that_is_missing_or_misshapen_is_refused_by_its_name_on_disk(tmp_path, name):
    save(tmp_path, tiny(), None)
    tensors = load_file(tmp_path / "model.safetensors")
    shape = tuple(tensors[name].shape)
    tensors[name] = torch.zeros(3, 5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: the tensor {name} has shape (3, 5)")
    assert str(shape) in str(error.value)
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"the tensor {name} is missing"):
        load(tmp_path)


def test_opening_a_model_does_not_load_the_compiler(tmp_path):
    """PyTorch imports it for some operations on "meta", which takes longer than opening a small model."""
    for name, switches in VARIANTS.items():
        save(tmp_path / name, tiny(torch.float32, **switches), None)
    code = f"import sys, minigpt\nfor name in {[*VARIANTS]}: minigpt.load({str(tmp_path)!r} + '/' + name)\n"
    said = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch._dynamo' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert said.stdout.strip() == "False"
