"""The toy world: what its three files promise, above all that no fact of a held-out person leaks into an answer."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from scripts import toyworld
from scripts.toyworld import SHOWN, TELLINGS, VALUES, WITHHELD, build, main

ATTRIBUTES = {"job", "town", "pet", "colour", "food"}
FILES = ["demonstrations.jsonl", "documents.txt", "questions.jsonl"]


@pytest.fixture(scope="module")
def world():
    return build(seed=0)


@pytest.fixture(scope="module")
def memorised():
    return build(seed=0, memorised=True)


def words(text):
    """The words of a text; a possessive is the name and an s of its own, as the tokenizer splits it."""
    return re.findall(r"[A-Za-z]+", text)


OPENING = re.compile("|".join(re.escape(opener).replace(r"\{name\}", "[A-Z][a-z]+") for opener in toyworld.OPENERS))


def quiz_pages(world):
    """The documents that don't open like a biography."""
    return [document for document in world.documents if not OPENING.match(document)]


def texts(world):
    """Everything a model is trained on or asked."""
    yield from world.documents
    for row in world.demonstrations:
        yield row["prompt"]
        yield row["response"]
    for row in world.questions:
        yield from (row["question"], row["answer"], row["cloze"])


# --- the same seed, the same bytes ------------------------------------------------------------------------------------


def test_same_seed_same_bytes(tmp_path):
    for out in ("a", "b"):  # in processes of their own: nothing may hang on the hash seed
        command = [sys.executable, "-m", "scripts.toyworld", "--out", str(tmp_path / out), "--seed", "7"]
        subprocess.run([*command, "--people", "8", "--biographies", "3"], check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_seed_draws_world_halves_and_order():
    a, b = build(0, people=40, biographies=2), build(1, people=40, biographies=2)
    facts_a, facts_b = ({person.name: person.facts for person in world.people} for world in (a, b))
    assert any(facts_a[name] != facts_b[name] for name in facts_a.keys() & facts_b.keys())
    assert {row["person"] for row in a.questions} != {row["person"] for row in b.questions}


def test_documents_about_one_person_are_spread_out(world):
    names = {person.name for person in world.people}
    subjects = [next(word for word in words(document) if word in names) for document in world.documents]
    together = sum(one == other for one, other in pairwise(subjects))
    assert together / len(subjects) < 0.03


def test_switches_change_the_documents_only(world, memorised):
    bare = build(seed=0, quiz=False)
    assert bare.people == memorised.people == world.people
    assert bare.demonstrations == memorised.demonstrations == world.demonstrations
    assert bare.questions == world.questions
    for ours, theirs in zip(world.questions, memorised.questions):
        assert ours | {"cloze": ""} == theirs | {"cloze": ""}


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts(world):
    assert len(world.people) == len({person.name for person in world.people}) == 128
    assert sum(person.held_out for person in world.people) == 64
    assert len(world.demonstrations) == 64 * 5 * toyworld.PHRASINGS
    assert len({row["prompt"] for row in world.demonstrations}) == len(world.demonstrations)
    assert len(world.questions) == 2 * 64 * 5
    assert len(quiz_pages(world)) == pytest.approx(0.15 * len(world.documents), abs=1)
    assert len(world.documents) - len(quiz_pages(world)) == 128 * 80
    assert not quiz_pages(build(seed=0, people=8, biographies=10, quiz=False))


def test_biographies_tell_everything_and_stay_short(world):
    names = {person.name: person for person in world.people}
    told = Counter()
    for document in set(world.documents) - set(quiz_pages(world)):
        (name,) = {word for word in words(document) if word in names}
        assert set(names[name].facts.values()) <= set(words(document))
        assert document.count(".") == 6
        told[name] += 1
    assert set(told) == set(names)
    assert max(len(document.split()) for document in world.documents) <= 40
    # A token a word, a mark and an 's: what byte-pair encoding comes to once every word here is one token.
    assert max(len(re.findall(r"\w+|[.,?']", document)) for document in world.documents) <= 52


def test_few_words(world):
    assert len({word.lower() for text in texts(world) for word in words(text)}) <= 900


# --- what makes it learnable ------------------------------------------------------------------------------------------


def test_names_and_values_stand_after_a_space(world):
    known = {name for group in toyworld.NAMES.values() for name in group}.union(*VALUES.values())
    for text in set(texts(world)):
        assert text == text.strip() and "  " not in text and "\n" not in text
        for found in re.finditer(r"[A-Za-z]+", text):
            if found[0] in known:
                assert found.start() > 0 and text[found.start() - 1] == " ", text
            else:  # and never in another form
                assert found[0].lower() not in known and found[0].capitalize() not in known, text


def test_names_and_values_are_words_of_their_own():
    names = [name for group in toyworld.NAMES.values() for name in group]
    values = [value for group in VALUES.values() for value in group]
    assert len(set(names)) == len(names) >= 160 and len(set(values)) == len(values)
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in names)
    wordings = toyworld.OPENERS
    for table in (TELLINGS, SHOWN, WITHHELD, *toyworld.ANSWERS.values()):
        for entry in table.values():
            wordings = wordings + ([entry] if isinstance(entry, str) else entry)
    common = {word.lower() for wording in wordings for word in words(re.sub(r"{\w+}", "", wording))}
    assert not common & {word.lower() for word in names + values}
    assert not {name.lower() for name in names} & {value.lower() for value in values}


def test_no_guess_does_well(world):
    for people in (world.people, [person for person in world.people if person.held_out]):
        for attribute in ATTRIBUTES:
            counts = Counter(person.facts[attribute] for person in people)
            assert set(counts) <= set(VALUES[attribute])
            assert max(counts.values()) / len(people) <= 0.12


def test_articles(world):
    vowels = r"\ba [aeiou]|\ban [^aeiou]"
    assert not [text for text in texts(world) if re.search(vowels, text)]


def test_pronouns():
    otto = toyworld.Person("Otto", "he", {}, held_out=False)
    ada = toyworld.Person("Ada", "she", {}, held_out=False)
    wording = "{Who} {who} {whom} {whose} {own}"
    assert toyworld.fill(wording, otto) == "He he him his his"
    assert toyworld.fill(wording, ada) == "She she her her her"
    assert toyworld.fill(wording, otto, by_name=True) == "Otto Otto Otto Otto's his"


def test_what_stands_before_a_value_tells_the_attribute():
    told = [(attribute, wording) for attribute, wordings in TELLINGS.items() for wording in wordings]
    for attribute, wording in told:
        assert wording.count(" {value}") == wording.count("{value}") == 1
        before = wording.split("{value}")[0]
        for other, another in told:
            if another.startswith(before):
                assert other == attribute and another.startswith(before + "{value}"), (wording, another)


def test_answers_are_sentences_of_the_biographies():
    for attribute, wording in toyworld.ANSWERS["pronoun"].items():
        assert wording in TELLINGS[attribute]


# --- what makes it fair -----------------------------------------------------------------------------------------------


def test_no_question_about_a_held_out_person_stands_with_its_answer(world):
    held_out = {person.name: set(person.facts.values()) for person in world.people if person.held_out}
    asking = [
        re.compile(re.escape(wording).replace(r"\{name\}", rf"({'|'.join(held_out)})\b"))
        for table in (SHOWN, WITHHELD)
        for wordings in table.values()
        for wording in wordings
    ]
    asked = set()
    for document in set(world.documents):
        for name in held_out.keys() & set(words(document)):
            if any(pattern.search(document) for pattern in asking):
                asked.add(name)
                assert not held_out[name] & set(words(document)), document
    assert asked == set(held_out)  # quiz pages do ask about them
    for row in world.demonstrations:
        assert not held_out.keys() & set(words(" ".join(row.values()))), row


def test_quiz_pages_hold_no_value(world):
    values = {value for group in VALUES.values() for value in group}
    pages = quiz_pages(world)
    assert not [page for page in pages if values & set(words(page))]
    assert all(page.count("?") + page.count(".") >= 2 for page in pages)
    assert not [document for document in set(world.documents) - set(pages) if "?" in document]


def test_every_held_out_fact_is_asked_in_seen_and_unseen_words(world):
    people = {person.name: person for person in world.people}
    asked = Counter((row["person"], row["attribute"], row["phrasing_seen"]) for row in world.questions)
    assert asked == Counter(
        (person.name, attribute, seen)
        for person in world.people
        if person.held_out
        for attribute in ATTRIBUTES
        for seen in (True, False)
    )
    for row in world.questions:
        person = people[row["person"]]
        assert row["question"] == row["wording"].format(name=person.name)
        assert row["value"] == person.facts[row["attribute"]]
        assert row["answer"] == toyworld.fill(toyworld.ANSWERS["pronoun"][row["attribute"]], person, row["attribute"])


def test_seen_wordings_occur_in_the_demonstrations_and_withheld_ones_never(world):
    name = re.compile(rf"\b({'|'.join(person.name for person in world.people)})\b")
    demonstrated = Counter(name.sub("{name}", row["prompt"]) for row in world.demonstrations)
    for row in world.questions:
        assert (row["wording"] in demonstrated) == row["phrasing_seen"], row
    for attribute in ATTRIBUTES:
        assert len(WITHHELD[attribute]) >= 3
        assert all(demonstrated[wording] == 32 for wording in SHOWN[attribute])
        asked = Counter(row["wording"] for row in world.questions if row["attribute"] == attribute)
        assert all(asked[wording] == 16 for wording in WITHHELD[attribute])


def test_phrasing_seen_holds_in_the_smallest_world():
    world = build(seed=3, people=4, biographies=1)
    prompts = {row["prompt"] for row in world.demonstrations}
    shown = [person.name for person in world.people if not person.held_out]
    for row in world.questions:
        assert any(row["wording"].format(name=name) in prompts for name in shown) == row["phrasing_seen"]


def test_the_cloze_leads_to_the_value(world):
    sentences = {sentence for document in world.documents for sentence in document.split(". ")[1:]}
    tellings = set()
    for row in world.questions:
        assert row["cloze_answer"] == " " + row["value"]
        assert row["person"] in words(row["cloze"]) and row["value"] not in words(row["cloze"])
        assert OPENING.match(row["cloze"]) and not row["cloze"].endswith(" ")
        sentence = row["cloze"].split(". ", 1)[1] + row["cloze_answer"]
        assert any(told.startswith(sentence) for told in sentences), sentence
        tellings.add(row["cloze"].split(". ", 1)[1])
    assert len(tellings) >= 50


# --- the ablation: one fixed wording a person -------------------------------------------------------------------------


def test_memorised_tells_each_life_in_one_wording(memorised):
    told = Counter(memorised.documents)
    biographies = [document for document in told if OPENING.match(document)]
    assert len(biographies) == 128 and all(told[document] == 80 for document in biographies)
    asked = {person.name for person in memorised.people if person.held_out}
    own = {word: document for document in biographies for word in words(document) if word in asked}
    for row in memorised.questions:  # its cloze is cut from that very biography, which keeps the comparison fair
        assert own[row["person"]].startswith(row["cloze"] + row["cloze_answer"])


def test_answers_can_bear_the_name():
    world = build(seed=0, people=8, biographies=1, answers="name")
    for row in world.questions:
        assert f" {row['person']}" in row["answer"] and row["value"] in words(row["answer"])


# --- the command line -------------------------------------------------------------------------------------------------


def test_files_read_back(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "new" / "world"), "--people", "6", "--biographies", "4"]) == 0
    assert "28 documents" in capsys.readouterr().out
    world = build(seed=0, people=6, biographies=4)
    here = tmp_path / "new" / "world"
    documents = (here / "documents.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    assert [document.strip("\n") for document in documents] == world.documents
    for name, rows in (("demonstrations", world.demonstrations), ("questions", world.questions)):
        lines = (here / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--people=500", "--people 500: at most 160, as many as there are names"),
        ("--people=3", "--people 3: at least 4, two to learn from and two to ask about"),
        ("--biographies=0", "--biographies 0: at least 1 for each person"),
    ],
)
def test_bad_numbers_are_one_line(tmp_path, capsys, argument, line):
    assert main(["--out", str(tmp_path / "world"), argument]) == 2
    assert capsys.readouterr() == ("", line + "\n")
    assert not (tmp_path / "world").exists()


def test_bad_answers_are_a_value_error():
    with pytest.raises(ValueError, match="answers 'song': one of pronoun, name"):
        build(seed=0, answers="song")


@pytest.mark.parametrize("arguments", [[], ["--out", "x", "--seed", "blue"], ["--out", "x", "--answers", "song"]])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_an_output_path_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["--out", str(out), "--people", "4", "--biographies", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"--out {out}: cannot be written: ") and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, capsys, monkeypatch, failing):
    small = ["--out", str(tmp_path), "--people", "4", "--biographies", "1"]
    assert main(small) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toyworld.Path if failing == "write_text" else toyworld.os, failing, full)
    assert main([*small, "--seed", "1"]) == 2
    assert capsys.readouterr().err == f"--out {tmp_path}: cannot be written: No space left on device\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
