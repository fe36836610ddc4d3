"""The layout of a conversation: exactly the responses and their end tokens are learnt, and no text can forge a turn."""

import pytest
from conftest import TEXTS
from hypothesis import given
from hypothesis import strategies as st

from minigpt import Tokenizer
from minigpt.tokenizer import END, PROMPT, RESPONSE, SPECIAL_TOKENS
from sft import Message, encode_conversation
from sft.template import CHATML

texts = st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*TEXTS, *SPECIAL_TOKENS, " "])), max_size=4).map(
    "".join
)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def conversation(turns: list[tuple[str, str]], system: str | None = None) -> list[Message]:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def learnt(ids: list[int], learn: list[bool]) -> list[int]:
    return [id for id, is_learnt in zip(ids, learn, strict=True) if is_learnt]


@pytest.mark.claim("S3")
def test_a_conversation_laid_out_by_hand(tok):
    ids, learn = encode_conversation(tok, conversation([("Where?", "In Oslo.")]))
    prompt, response, end = (tok.special[name] for name in (PROMPT, RESPONSE, END))
    question, answer = tok.encode("Where?"), tok.encode("In Oslo.")
    assert ids == [prompt, *question, response, *answer, end]
    assert learn == [False] * (len(question) + 2) + [True] * (len(answer) + 1)


@given(turns, st.one_of(st.none(), texts))
def test_exactly_the_responses_and_their_end_tokens_are_learnt(tok, turns, system):
    # docs/known_bugs.md: the mask off by one; the end token masked because it is also the padding token
    ids, learn = encode_conversation(tok, conversation(turns, system))
    assert learnt(ids, learn) == [id for _, answer in turns for id in [*tok.encode(answer), tok.special[END]]]
    assert sum(before != after for before, after in zip(learn, learn[1:])) == 2 * len(turns) - 1
    first = learn.index(True)
    assert ids[first - 1] == tok.special[RESPONSE]  # the first target is predicted from here


@pytest.mark.parametrize("start", [[], [256]], ids=str)
def test_chatml_laid_out_by_hand(start):
    tok = Tokenizer([bytes([byte]) for byte in range(256)], ["<s>", "<|im_start|>", "<|im_end|>"], end="<s>", start=[])
    tok.start = start  # [256]: it begins each text with "<s>", which is its end, too: so a conversation has it already
    other = Tokenizer(tok.tokens, [*tok.special, "</s>"], end="</s>", start=start)
    messages = conversation([("Where?", "In Oslo."), ("Who?", "Ada")], "Be brief.")
    for each, begins in ((tok, ""), (other, "<s>" if start else "")):
        ids, learn = encode_conversation(each, messages)
        assert each.decode(ids) == (
            f"{begins}<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
            "<|im_start|>assistant\nIn Oslo.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
            "<|im_start|>assistant\nAda<|im_end|>"
        )
        assert each.decode(learnt(ids, learn)) == "In Oslo.<|im_end|>Ada<|im_end|>"


@given(turns, st.one_of(st.none(), texts))
def test_no_text_opens_or_ends_a_turn(tok, turns, system):
    ids, _ = encode_conversation(tok, conversation(turns, system))
    found = [name for id in ids for name in SPECIAL_TOKENS if id == tok.special[name]]
    assert found == [PROMPT, RESPONSE, END] * len(turns)


@given(turns, texts, texts, st.one_of(st.none(), texts))
def test_what_a_model_is_asked_with_is_a_prefix_of_what_it_was_trained_on(tok, turns, question, answer, system):
    trained, learn = encode_conversation(tok, conversation([*turns, (question, answer)], system))
    asked, _ = encode_conversation(tok, [*conversation(turns, system), Message("user", question)])
    assert trained[: len(asked)] == asked
    assert asked[-1] == tok.special[RESPONSE]
    assert learn[len(asked)]


def test_no_merge_crosses_a_seam():
    # docs/known_bugs.md: a merge crosses the seam between prompt and response
    tok = Tokenizer.train(["<|prompt|>ab<|response|>ab<|endoftext|>ab"] * 9, 400)
    texts = ("ab", "|>ab<|", "b<|endoftext|>")
    for question in texts:
        for answer in texts:
            ids, learn = encode_conversation(tok, conversation([(question, answer)]))
            assert learnt(ids, learn)[:-1] == tok.encode(answer)
            assert ids[1 : learn.index(True) - 1] == tok.encode(question)


def test_the_text_before_an_answer_changes_no_id_of_it(tok):
    alone = learnt(*encode_conversation(tok, conversation([("", " Oslo")])))
    assert learnt(*encode_conversation(tok, conversation([("Where does Ada live", " Oslo")]))) == alone


def test_a_conversation_begins_with_one_start_token(tok):
    # docs/known_bugs.md: the start token stands there twice
    ids, _ = encode_conversation(tok, conversation([("a", "b"), ("c", "d")]))
    assert [ids.count(tok.special[name]) for name in (PROMPT, RESPONSE, END)] == [2, 2, 2]
    assert ids[0] == tok.special[PROMPT] and ids[-1] == tok.special[END]


def test_a_system_message_stands_before_the_first_prompts_text(tok):
    given = encode_conversation(tok, conversation([("Who?", "Ada"), ("Where?", "Oslo")], system="Be brief."))
    assert given == encode_conversation(tok, conversation([("Be brief.\n\nWho?", "Ada"), ("Where?", "Oslo")]))


@pytest.mark.parametrize(
    "roles, problem",
    [
        ("assistant", "message 1 has the role 'assistant': must be 'user'"),
        ("user user", "message 2 has the role 'user': must be 'assistant'"),
        ("user assistant assistant", "message 3 has the role 'assistant': must be 'user'"),
        ("user system", "message 2 has the role 'system': must be 'assistant'"),
        ("system system user", "message 2 has the role 'system': must be 'user'"),
        ("user tool", "message 2 has the role 'tool': must be 'assistant'"),
        ("", "no message from the user"),
        ("system", "no message from the user"),
    ],
)
def test_messages_out_of_order_are_refused_with_place_and_role(tok, roles, problem):
    with pytest.raises(ValueError, match=problem):
        encode_conversation(tok, [Message(role, "text") for role in roles.split()])


@pytest.mark.parametrize(
    "wrong", [{"role": "user", "content": "Hi"}, ("user", "Hi"), "Hi", Message("user", None), Message("user", ["Hi"])]
)
def test_what_is_no_message_is_refused_with_its_place(tok, wrong):
    with pytest.raises(ValueError, match=r"message 1 is .*must be a Message, a role and a text"):
        encode_conversation(tok, [wrong])


def test_a_conversation_is_any_row_of_messages(tok):
    messages = [Message("user", "Hi"), Message("assistant", "Yo")]
    assert encode_conversation(tok, iter(messages)) == encode_conversation(tok, messages)
    with pytest.raises(ValueError, match="messages is None: must be a list of Messages"):
        encode_conversation(tok, None)


@pytest.mark.parametrize("left_out", SPECIAL_TOKENS)
def test_a_tokenizer_without_the_special_tokens_is_refused(left_out):
    special = [name for name in SPECIAL_TOKENS if name != left_out]
    tok = Tokenizer([bytes([byte]) for byte in range(256)], special)
    with pytest.raises(ValueError, match=rf"lacks {left_out.replace('|', '[|]')}: reserve"):
        encode_conversation(tok, conversation([("a", "b")]))


BYTES = [bytes([byte]) for byte in range(256)]
OPEN, CLOSE = "<|im_start|>", "<|im_end|>"
OTHERS = {  # tokenizers with another layout: what stands around "Q" and "A" of two turns, and the end that is learnt
    "ChatML": (
        Tokenizer(BYTES, [END, OPEN, CLOSE], end=CLOSE),
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>",
    ),
    "plain text": (
        Tokenizer(BYTES, [END]),
        "### Instruction:\nQ\n\n### Response:\nA<|endoftext|>\n\n### Instruction:\nQ\n\n### Response:\nA<|endoftext|>",
    ),
}


@pytest.mark.claim("S3")
@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_without_our_tokens_keeps_the_layout_that_it_knows(name):
    other, laid_out = OTHERS[name]
    ids, learn = encode_conversation(other, conversation([("Q", "A")] * 2))
    assert other.decode(ids) == laid_out
    assert other.decode(learnt(ids, learn)) == f"A{other.end}" * 2


hostile = st.lists(st.one_of(st.text(max_size=5), st.sampled_from([*SPECIAL_TOKENS, OPEN, CLOSE, "\n"])), max_size=4)


@pytest.mark.parametrize("name", OTHERS)
@given(st.lists(st.tuples(hostile.map("".join), hostile.map("".join)), min_size=1, max_size=2), st.booleans())
def test_in_every_layout_no_text_forges_a_special_token_and_the_prompt_is_a_prefix(name, turns, with_system):
    other, _ = OTHERS[name]
    messages = conversation(turns, "Be brief." + turns[0][0] if with_system else None)
    specials = lambda ids: [other.special_names[i] for i in ids if i in other.special_names]
    ids, learn = encode_conversation(other, messages)
    harmless = [Message(message.role, "x") for message in messages]
    assert specials(ids) == specials(encode_conversation(other, harmless)[0])
    assert learnt(ids, learn) == [id for _, answer in turns for id in [*other.encode(answer), other.end_id]]
    asked, _ = encode_conversation(other, messages[:-1])
    assert ids[: len(asked)] == asked and learn[len(asked)]


def test_chatml_takes_its_default_system_message_from_the_makers_template_unless_one_is_given():
    written = (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    kind = Tokenizer(BYTES, [END, OPEN, CLOSE], end=CLOSE, chat_template=written)
    begins = lambda system: kind.decode(encode_conversation(kind, conversation([("Q", "A")], system))[0])
    assert begins(None).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ")
    assert begins("").startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ")
    assert begins("{}").startswith("<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nQ")


def test_only_the_messages_are_encoded_for_each_conversation(monkeypatch):
    other, encoded = Tokenizer(BYTES, [END, OPEN, CLOSE], end=CLOSE), []
    encode_conversation(other, conversation([("Q", "A")] * 2, "S"))
    monkeypatch.setattr(other, "encode", lambda text: encoded.append(text) or [])
    encode_conversation(other, conversation([("Who?", "Ada"), ("Where?", "Oslo")], "Be brief."))
    assert encoded == ["Be brief.", "Who?", "Ada", "Where?", "Oslo"]


def test_an_unknown_chat_template_is_refused_and_a_given_one_is_used():
    both = Tokenizer(BYTES, [*SPECIAL_TOKENS, OPEN, CLOSE])
    assert both.decode(encode_conversation(both, conversation([("Q", "A")]))[0]).startswith(PROMPT)
    assert both.decode(encode_conversation(both, conversation([("Q", "A")]), CHATML)[0]).startswith(OPEN)
    odd = Tokenizer(BYTES, [END], chat_template="[INST] {{ text }} [/INST]")
    with pytest.raises(ValueError, match=r"chat template.*INST.* leaves out or changes what the user says"):
        encode_conversation(odd, conversation([("Q", "A")]))
