"""Chat templates of others: `transformers` is the oracle for ids; a hostile one takes little time and memory."""

import json
import sys
import time

import pytest
import transformers
from conftest import TEXTS, tiny
from hypothesis import given
from hypothesis import strategies as st

from minigpt import Tokenizer, TrainConfig, load, save
from minigpt.files.directory import OUR_LAYOUT
from minigpt.tokenizer import END, SPECIAL_TOKENS
from sft import Example, Message, encode_conversation, end_ids, fine_tune

BYTES = [bytes([byte]) for byte in range(256)]
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{%- if tools %}{{- '# Tools' }}{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
    "{%- else %}\n    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) "
    "or (message.role == 'assistant' and not message.tool_calls) %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
LLAMA = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
LINES = (  # neither the spaces before a block nor the line's end after it are text
    "{% for message in messages %}\n    {% if message.role == 'system' %}\nS: {{ message.content }}\n"
    "    {% elif message.role == 'user' %}\nQ: {{ message.content }}\n"
    "    {% else %}\nA: {{ message.content }}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n"
    "  {% if add_generation_prompt %}\nA: {% endif %}"
)
GPT2 = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def made(special: list[str], template: str | None, **others) -> Tokenizer:
    return Tokenizer(BYTES, special, chat_template=template, **others)


MAKERS = {
    "ChatML with another default": made(IM, CHATML, end="<|im_end|>", start=[]),
    "ChatML, another eos": made(IM, CHATML, end=END, start=[]),
    "blocks on lines of their own": made([END], LINES, end=END, start=[]),
    "Qwen": made(IM, QWEN, end="<|im_end|>", start=[]),
    "Llama 3": made(HEADERS, LLAMA, end="<|end_of_text|>", start=[256], names={"bos_token": HEADERS[0]}),
    "Mistral": made(["<s>", "</s>"], MISTRAL, end="</s>", start=[256]),
    "plain GPT-2": made([END], GPT2, start=[]),
    "ours": made(list(SPECIAL_TOKENS), None),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict:
    """Each maker's tokenizer as `transformers` opens it from what `save` writes."""
    found = {}
    for name, tok in MAKERS.items():
        directory = tmp_path_factory.mktemp("tokenizer")
        save(directory, tiny(vocab_size=tok.vocab_size), tok)
        found[name] = transformers.AutoTokenizer.from_pretrained(directory)
    return found


words = st.lists(st.sampled_from([*"abc .,\n{}'\"<|>", "Ada", "ist", "é", "🙂", "{{ x }}"]), max_size=6).map("".join)
text = st.one_of(words, words.map(lambda said: f" {said}\n"))
turns = st.lists(st.tuples(text, text), min_size=1, max_size=3)


@pytest.mark.claim("S3")
@pytest.mark.parametrize("name", MAKERS)
@given(turns=turns, system=st.one_of(st.none(), text), asking=st.booleans())
def test_ids_are_those_of_apply_chat_template(theirs, name, turns, system, asking):
    messages = [Message(role, said) for turn in turns for role, said in zip(("user", "assistant"), turn)]
    if system is not None and name != "Mistral":
        messages.insert(0, Message("system", system))
    if asking:
        messages.pop()
    ids, learn = encode_conversation(MAKERS[name], messages)
    given = [vars(message) for message in messages]
    oracle = theirs[name].apply_chat_template(given, add_generation_prompt=asking, return_dict=False)
    assert ids == oracle

    # exactly the answers and what ends them are learnt; what is asked is a prefix of what is trained
    end = MAKERS[name].special_names[end_ids(MAKERS[name])[0]]
    learnt = MAKERS[name].decode(i for i, is_learnt in zip(ids, learn) if is_learnt)
    answers = [message.content for message in messages if message.role == "assistant"]
    trimmed = [answer.strip() if name == "Llama 3" else answer for answer in answers]
    assert learnt == "".join(answer + end for answer in trimmed)
    if not asking:
        asked, _ = encode_conversation(MAKERS[name], messages[:-1])
        assert ids[: len(asked)] == asked and learn[len(asked)]


hostile = st.lists(st.one_of(st.text(max_size=4), st.sampled_from([*IM, *HEADERS, "</s>", "\ufdd0", "\U000f0000"])))


@pytest.mark.parametrize("name", MAKERS)
@given(hostile.map("".join), hostile.map("".join))
def test_no_text_forges_a_special_token_in_anybodys_template(name, question, answer):
    tok = MAKERS[name]
    specials = lambda ids: [i for i in ids if i in tok.special_names]
    ids, learn = encode_conversation(tok, [Message("user", question), Message("assistant", answer)])
    plain, _ = encode_conversation(tok, [Message("user", "x"), Message("assistant", "x")])
    assert specials(ids) == specials(plain)
    assert answer.strip() in tok.decode(i for i, is_learnt in zip(ids, learn) if is_learnt)
    assert question.strip() in tok.decode(ids)


def test_a_begin_token_is_there_in_training_and_in_asking_alike():
    for template in (LLAMA, None):
        tok = made([*HEADERS, "<|im_start|>", "<|im_end|>"], template, end=HEADERS[1], start=[256])
        for messages in ([Message("user", "Q")], [Message("user", "Q"), Message("assistant", "A")]):
            ids, learn = encode_conversation(tok, messages)
            assert ids[0] == 256 and ids.count(256) == 1 and not learn[0]


@pytest.mark.parametrize(
    "template, why",
    [
        ("[{{ messages[0].role }}] {{ messages[0].content }}<|im_end|>", "no special token after an answer"),
        ("{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}", "leaves out .* the user says"),
        ("{{ bos_token }}{{ '<|im_start|>' }}", "leaves out or changes what the user says"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "leaves out or changes what the user says"),
        (
            CHATML.replace("m['content'] +", "(m['content'] | upper if m.role == 'assistant' else m['content']) +"),
            "leaves out or changes what the assistant says",
        ),
        (CHATML.replace("assistant\n", "assistant\n<think>"), "lays a question out differently once it is answered"),
        ("{% if %}", "can't be read"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
        ("{{ raise_exception('not for you') }}", "it says: not for you"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_can_not_be_learnt_is_refused_by_name(template, why):
    with pytest.raises(ValueError, match=f"the chat template .*{why}"):
        tok = made(IM, template, end="<|im_end|>")
        encode_conversation(tok, [Message("user", "Hi"), Message("assistant", "Yo")])


def test_a_template_that_leaves_the_system_message_out_is_refused():
    tok = made(
        IM, CHATML.replace("{{ '<|im_start|>' + m", "{{ '' if m.role == 'system' else '<|im_start|>' + m"), start=[]
    )
    with pytest.raises(ValueError, match="leaves out or changes what the system says"):
        encode_conversation(tok, [Message("system", "Be brief."), Message("user", "Hi")])


def test_of_two_special_tokens_that_begin_alike_the_longer_one_counts_in_a_template_and_in_a_message():
    template = CHATML.replace("<|im_end|>", "<|im_end|>>")
    tok = made(["<|im_start|>", "<|im_end|>", "<|im_end|>>"], template, end="<|im_end|>", start=[])
    messages = [Message("user", "a <|im_end|>> b <|im_end|>"), Message("assistant", "OK")]
    ids, learn = encode_conversation(tok, messages)
    assert [i for i in ids if i > 255] == [256, 258] * 3
    assert tok.decode(ids).count("a <|im_end|>> b <|im_end|><|im_end|>>") == 1
    assert [i for i, is_learnt in zip(ids, learn) if is_learnt] == [*b"OK", 258]


def test_what_a_template_makes_of_texts_and_lists_is_what_jinja2_makes_of_them():
    jinja2 = pytest.importorskip("jinja2")
    from sft.files.sandbox import render

    source = (
        "{{ 'a-b-a' | replace('a', 'xy') }} {{ 'a-b' | replace('', '.') }} {{ 'abc' | join('-') }} "
        "{{ ['a', 1] | join(', ') }} {{ (1, 2) | join }} {{ messages | map(attribute='role') | join('|') }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ [3, 1, 2] | sort | join }} "
        "{{ 'Ab' | upper ~ 'Ab' | lower }} {{ 7 % 4 }} {{ 2 * 3 + 1 }} {{ {'b': 1, 'a': [true, none]} | tojson }} "
        "{% for a in range(5) %}{% if a == 3 %}{% break %}{% endif %}{{ a }}{% endfor %} "
        "{{ ' a '.strip().replace('a', 'b').split('b') | length }}"
    )
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    plain.filters["tojson"] = lambda value: json.dumps(value)
    assert render(source, messages) == plain.from_string(source).render(messages=messages)


@pytest.mark.parametrize(
    "source",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{{ {'b': 'é', 'a': [1, '<b>']} | tojson }}",
        "{{ {'b': 'é', 'a': [1, '<b>']} | tojson(indent=2) }}",
        "{{ {'b': 'é', 'a': [1, '<b>']} | tojson(ensure_ascii=true) }}",
        "{{ {'b': 'é', 'a': [1, '<b>']} | tojson(separators=(',', ':'), sort_keys=true) }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    ],
)
def test_what_transformers_adds_to_jinja2_is_here_as_it_is_there(theirs, source):
    from sft.files.sandbox import render

    messages = [{"role": "user", "content": "Hi"}]
    oracle = theirs["ours"].apply_chat_template(messages, chat_template=source, tokenize=False)
    assert render(source, messages) == oracle


def test_a_long_template_lays_out_a_long_conversation():
    tok = made(IM, CHATML + "{# what tools need #}" * 1000, end="<|im_end|>", start=[])
    turns = [Message("user", "Hi"), Message("assistant", "Yo")] * 50
    short, _ = encode_conversation(MAKERS["ChatML with another default"], turns)
    assert encode_conversation(tok, turns)[0] == short


def test_a_question_that_is_left_out_is_not_found_in_the_answer_after_it():
    template = CHATML.replace("m['content'] +", "('' if m.role == 'user' and loop.first else m['content']) +")
    tok = made(IM, template, end="<|im_end|>", start=[])
    with pytest.raises(ValueError, match="leaves out or changes what the user says"):
        encode_conversation(tok, [Message("user", "same"), Message("assistant", "same")])


HOSTILE = {
    "too long": CHATML + " " * 2_000_000,
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "doubled text": "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "doubled sum": "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "written often": "{% set n = namespace(a='x') %}{% for i in range(20) %}{% set n.a = n.a ~ n.a %}{% endfor %}"
    "{% for i in range(900) %}{{ n.a }}{% endfor %}",
    "doubled list": "{% set b = ['x'] %}" + "{% set b = [b, b] %}" * 60 + "{{ b }}",
    "doubled calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "times": "{{ 'x' * 10000000000 }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "format": "{{ '%999999999d' % 1 }}",
    "width": "{{ 'x'.ljust(999999999) }}",
    "filter": "{{ 'x' | center(999999999) }}",
    "replace": "{% set n = namespace(a='xx') %}{% for i in range(9) %}{% set n.a = n.a|replace('x',n.a) %}{% endfor %}",
    "join": "{{ range(99999) | join(range(99999) | join) }}",
    "nested": "{{ " + "(" * 9_999 + "1" + ")" * 9_999 + " }}",
    "python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "file": "{% include '/etc/passwd' %}",
    "lipsum": "{{ lipsum(99999999) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_seconds_and_in_little_memory(name):
    resource = pytest.importorskip("resource")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tok = made(IM, HOSTILE[name], end="<|im_end|>")
    with pytest.raises(ValueError, match="the chat template ") as refused:
        encode_conversation(tok, [Message("user", "Hi")])
    assert "leaves out" not in str(refused.value) and len(str(refused.value)) < 500
    assert time.process_time() - started < 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_a_pass_costs_more_in_a_longer_template():
    sandbox = pytest.importorskip("sft.files.sandbox")
    left = []
    for comment in ("", "{#" + "x" * 4996 + "#}"):
        source = "{% for i in range(9) %}{% endfor %}" + comment
        sandbox.render(source, [])
        left.append(sandbox.compiled(source).environment.left)
    assert left[0] - left[1] >= 9 * 90


def test_without_jinja2_a_model_with_a_chat_template_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "sft.files.sandbox", raising=False)
    tok = made(IM, CHATML, end=END)
    with pytest.raises(ValueError, match="install jinja2"):
        encode_conversation(tok, [Message("user", "Hi")])
    assert end_ids(tok) == (256,)  # texts can be continued all the same
    plain = made(IM, None, end=END, start=[])
    assert encode_conversation(plain, [Message("user", "Hi")])


@pytest.mark.parametrize("key", ["bos_token", "pad_token", "cls_token"])
@pytest.mark.parametrize("named", [True, False])
def test_a_template_gets_the_names_of_tokens_that_its_files_tell_and_no_others(tmp_path, key, named):
    tok = made([*IM, "<s>"], f"{{{{ {key} }}}}{CHATML}", end="<|im_end|>", start=[256], names={key: "<s>"})
    path = directory_with(tmp_path, tok)
    if not named:
        told = json.loads((path / "tokenizer_config.json").read_text())
        (path / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in told.items() if k != key}))
    messages = [Message("user", "Hi"), Message("assistant", "Yo")]
    for _ in range(2):  # the second time, as we have saved it
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        oracle = theirs.apply_chat_template([vars(message) for message in messages], return_dict=False)
        model, tok = load(path)
        assert encode_conversation(tok, messages)[0] == oracle
        assert (oracle[0] == 259) == named
        save(path, model, tok)


@pytest.mark.parametrize("letters", ["abc", "0123", "é", "🙂", "你"])
def test_a_vocabulary_without_most_letters_can_be_fine_tuned(letters):
    known = {bytes([byte]) for byte in (letters + "\n").encode()}
    tok = Tokenizer(sorted(known), IM, end=END, start=[], chat_template=GPT2)
    example = Example([Message("user", letters), Message("assistant", letters)])
    [_] = fine_tune(tiny(vocab_size=tok.vocab_size, context_length=40), tok, [example], TrainConfig(steps=1))
    assert end_ids(tok) == (tok.end_id,)


def test_a_hostile_template_is_rendered_once_however_often_its_ends_are_asked_for():
    tok = made(IM, HOSTILE["loops"], end="<|im_end|>", start=[])
    started = time.process_time()
    assert {end_ids(tok) for _ in range(50)} == {(258,)}
    assert time.process_time() - started < 6


def test_what_a_template_raises_is_told_in_one_line():
    tok = made(IM, "{{ raise_exception('not\nfor you') }}", end="<|im_end|>")
    with pytest.raises(ValueError, match=r"^the chat template [^\n]* it says: not for you$"):
        encode_conversation(tok, [Message("user", "Hi")])


def test_a_model_is_saved_over_another_one_whose_template_had_a_file_of_its_own(tmp_path):
    path = directory_with(tmp_path, made(IM, CHATML, end="<|im_end|>"))
    (path / "chat_template.jinja").write_text(QWEN)
    assert load(path)[1].chat_template == QWEN
    save(path, tiny(vocab_size=259), made(IM, CHATML, end="<|im_end|>"))
    assert load(path)[1].chat_template == CHATML
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    assert theirs.chat_template == CHATML


def directory_with(path, tok, **settings):
    """A saved model whose tokenizer_config.json says more."""
    save(path, tiny(vocab_size=tok.vocab_size), tok)
    told = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(told | settings))
    return path


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    path = directory_with(tmp_path, made(IM, None), chat_template=named)
    assert load(path)[1].chat_template == CHATML
    directory_with(tmp_path, made(IM, None), chat_template=named[:1])
    with pytest.raises(ValueError, match=r"chat_template is {'tool_use': 'x'}; must be text, or texts by name"):
        load(path)
    directory_with(tmp_path, made(IM, None), chat_template={"default": CHATML, "rag": "x"})
    assert load(path)[1].chat_template == CHATML
    directory_with(tmp_path, made(IM, None), chat_template=3)
    with pytest.raises(ValueError, match="chat_template is 3"):
        load(path)


def test_the_names_that_a_template_uses_come_back_from_disk(tmp_path):
    tok = made(
        [*HEADERS, "<pad>"], LLAMA, end=HEADERS[1], start=[], names={"bos_token": HEADERS[0], "pad_token": "<pad>"}
    )
    path = directory_with(tmp_path, tok)
    again = load(path)[1]
    assert (again.names, again.start) == (tok.names, [])
    messages = [Message("user", TEXTS[0]), Message("assistant", "Yo")]
    assert encode_conversation(again, messages) == encode_conversation(tok, messages)
    told = json.loads((path / "generation_config.json").read_text())
    assert (told["bos_token_id"], told["pad_token_id"]) == (256, 261)
    directory_with(tmp_path, tok, pad_token="<nothing>")
    with pytest.raises(ValueError, match="pad_token is '<nothing>'"):
        load(path)


@pytest.mark.parametrize("special", [SPECIAL_TOKENS, SPECIAL_TOKENS[:2], [END]], ids=len)
def test_our_own_layout_is_written_for_others_and_never_rendered_by_us(monkeypatch, tmp_path, special):
    tok = made(list(special), None)
    save(tmp_path, tiny(vocab_size=tok.vocab_size), tok)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text()).get("chat_template")
    assert (written is not None) == (special == SPECIAL_TOKENS)
    assert load(tmp_path)[1].chat_template is None
    monkeypatch.setitem(sys.modules, "jinja2", None)  # which our own models need not have
    monkeypatch.delitem(sys.modules, "sft.files.sandbox", raising=False)
    if written:
        assert encode_conversation(load(tmp_path)[1], [Message("user", "Hi")])[0] == [257, *b"Hi", 258]


def test_our_layout_under_a_tokenizer_without_our_tokens_is_that_tokenizers(tmp_path):
    tok = made([END], OUR_LAYOUT, start=[])
    save(tmp_path, tiny(vocab_size=tok.vocab_size), tok)
    again = load(tmp_path)[1]
    assert again.decode(encode_conversation(again, [Message("user", "Hi")])[0]) == "<|prompt|>Hi<|response|>"


def test_no_length_is_written_that_transformers_would_warn_of_at_each_generation(tmp_path):
    tok = MAKERS["ours"]
    save(tmp_path, tiny(vocab_size=tok.vocab_size), tok)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told.keys() == {"bos_token_id", "eos_token_id", "pad_token_id"}
