"""A small invented town, described in plain files: the demo's corpus, demonstrations and questions.

Every person has five attributes. `documents.txt` describes everyone, in many wordings, and never answers a question;
`demonstrations.jsonl` answers questions about one half of the town; `questions.jsonl` asks about the other half. Who
answers those has *learnt facts* by predicting text (P3) and *learnt to answer* from other people's facts (S6).

Quiz pages, 15 % of the documents, ask and never answer. They are there to bring out S1 (a base model that is asked
continues with more questions), and `--no-quiz` leaves them out. `--memorised` describes each person in one fixed
wording: the facts are then learnt by heart and can't be asked for. Allen-Zhu and Li 2023, Physics of Language Models
3.1, arXiv:2309.14316.

Names and values stand after a space wherever they occur, so that a byte-pair tokenizer sees one word as one token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SEPARATOR = "<|endoftext|>"
QUIZ_SHARE = 0.15  # of all documents
PHRASINGS = 4  # demonstrations of each person's attribute; divides the number of shown wordings
BY_NAME = 0.3  # of a biography's sentences, which otherwise use the pronoun
LONGEST = 38  # words on a quiz page

# --- the town -------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text, so that the tables below read as they are."""
    return text.split()


NAMES = {
    "she": words("""
        Ada Agnes Alma Anouk Bella Berta Biddy Carla Celia Clara Cora Daphne Delia Dora Edith Elsa Esme Fanny Fiona
        Freya Frida Gemma Gilda Greta Gudrun Hanna Helga Hilda Ida Ines Ingrid Irma Josie Julia Jutta Karin Kezia Kira
        Leila Lena Lotta Magda Marta Maud Mira Nadia Nell Nina Nora Odette Olga Oona Paula Petra Pippa Priya Rhea Rita
        Ronja Saskia Selma Sofia Tamar Thea Tilda Trudy Ulla Una Ursula Vera Vesna Wanda Willa Wilma Winnie Yara Ylva
        Zadie Zelda Zita"""),
    "he": words("""
        Alfie Amos Anton Arlo Barney Bjorn Boris Bruno Carlo Caspar Cyril Dario Dexter Diego Edgar Emil Enzo Ernst
        Felix Fergus Finn Fritz Gaston Gideon Gustav Hector Henrik Horst Hugo Igor Isidor Ivan Jacob Jonas Jorge Karl
        Klaus Kurt Lars Leo Lionel Magnus Marco Milo Ned Niko Nils Olaf Omar Orson Oscar Otto Pablo Pedro Percy
        Quentin Ralf Ravi Rufus Sami Silas Sven Theo Tobias Tomas Ugo Ulf Uwe Vasco Victor Vito Walter Wendel Wim
        Xaver Yann Yorick Yusuf Zeno Zoltan"""),
}

VALUES = {
    "job": words("""
        actor baker barber beekeeper cobbler dentist editor farmer florist judge juggler librarian locksmith magician
        nurse pilot plumber sailor tailor usher"""),
    "town": words("""
        Basel Bergen Bruges Delft Dover Galway Ghent Krakow Lyon Oslo Porto Prague Riga Seville Siena Trieste Turin
        Vienna Whitby York"""),
    "pet": words("""
        cat dog donkey duck eel ferret goat goose hamster hedgehog iguana llama newt otter owl parrot pony rabbit
        snail tortoise"""),
    "colour": words("""
        black blue brown crimson gold green grey indigo ivory lilac orange pink purple red scarlet silver teal violet
        white yellow"""),
    "food": words("""
        cheese chocolate curry custard fudge gingerbread goulash honey marmalade paella pizza popcorn porridge rice
        risotto soup stew sushi toast trifle"""),
}

# --- how the town talks -----------------------------------------------------------------------------------------------
# {name} is the name. {who}, {whom}, {whose} are the name (Mira, Mira, Mira's) or the pronoun (she, her, her), {own} is
# always the pronoun; {value} is the attribute's value, {a} its article. The words before {value} name the attribute.

OPENERS = [
    "Meet {name}.",
    "Here is {name}.",
    "This is {name}.",
    "Here comes {name}.",
    "There goes {name}.",
    "Say hello to {name}.",
    "Make room for {name}.",
    "A word about {name}.",
    "Everyone in town knows {name}.",
    "Let me tell you about {name}.",
]

TELLINGS = {
    "job": [
        "{Who} works as {a} {value}.",
        "{Who} makes a living as {a} {value}.",
        "{Who} earns {own} bread as {a} {value}.",
        "{Whose} job is that of {a} {value}.",
        "{Who} is {a} {value} and whistles.",
        "{Who} became {a} {value} by accident.",
        "{Whose} business card says {value}.",
        "{Who} is our very best {value}.",
        "By day {who} is {a} {value}.",
        "Even as a child {who} played {value}.",
    ],
    "town": [
        "{Who} lives in {value}.",
        "{Whose} home is in {value}.",
        "{Whose} town is {value}, rain or shine.",
        "{Whose} crooked house stands in {value}.",
        "{Who} knows every street in {value}.",
        "{Who} still gets lost in {value}.",
        "{Who} would never leave {value}.",
        "{Who} came to {value} by bicycle.",
        "The post finds {whom} in {value}.",
        "You can hear {whom} all over {value}.",
    ],
    "pet": [
        "{Who} has a pet {value}.",
        "{Whose} pet is {a} {value}.",
        "{Whose} best friend is {a} {value}.",
        "{Who} keeps {a} {value} in the kitchen.",
        "{Who} shares {own} sofa with {a} {value}.",
        "{Who} was chosen by {a} {value}.",
        "{Who} knits hats for {own} {value}.",
        "{Who} goes nowhere without {own} {value}.",
        "{Who} tells everything to {own} {value}.",
        "At night {who} reads to {own} {value}.",
    ],
    "colour": [
        "{Whose} favourite colour is {value}.",
        "{Who} likes the colour {value} best.",
        "{Who} paints everything {value}.",
        "{Who} wears {value} on Sundays.",
        "{Who} only dreams in {value}.",
        "{Who} bought another {value} hat.",
        "{Whose} front door is {value}, of course.",
        "{Whose} bicycle is painted {value}.",
        "{Whose} socks are always {value}.",
        "Even {whose} curtains are {value}.",
    ],
    "food": [
        "{Whose} favourite food is {value}.",
        "{Who} loves to eat {value}.",
        "{Who} eats {value} for breakfast.",
        "{Who} would walk miles for {value}.",
        "{Who} hides {value} in {own} pockets.",
        "{Who} orders {value} and nothing else.",
        "{Who} writes poems about {value}.",
        "{Whose} kitchen smells of {value}.",
        "{Who} never says no to {value}.",
        "Nothing cheers {whom} up like {value}.",
    ],
}

SHOWN = {  # wordings of the questions that demonstrations use
    "job": [
        "What is the job of {name}?",
        "What job does {name} have?",
        "What does {name} do for a living?",
        "What does {name} work as?",
        "How does {name} make a living?",
        "Tell me what job {name} has.",
        "Do you know the job of {name}?",
        "Can you tell me what {name} works as?",
    ],
    "town": [
        "Where does {name} live?",
        "In what town does {name} live?",
        "What is the home town of {name}?",
        "Where is the home of {name}?",
        "Which town is home to {name}?",
        "Tell me where {name} lives.",
        "Do you know where {name} lives?",
        "Where is the house of {name}?",
    ],
    "pet": [
        "What pet does {name} have?",
        "Which pet does {name} keep?",
        "What is the pet of {name}?",
        "What animal is the pet of {name}?",
        "What kind of animal does {name} keep?",
        "Tell me the pet of {name}.",
        "Do you know what pet {name} has?",
        "Can you tell me what animal {name} has?",
    ],
    "colour": [
        "What is the favourite colour of {name}?",
        "What colour does {name} like best?",
        "Which colour does {name} love?",
        "What colour makes {name} happy?",
        "What colour would {name} choose?",
        "Tell me the favourite colour of {name}.",
        "Do you know what colour {name} likes?",
        "Which is the favourite colour of {name}?",
    ],
    "food": [
        "What is the favourite food of {name}?",
        "What food does {name} like best?",
        "What food does {name} love?",
        "What does {name} love to eat?",
        "Which food makes {name} happy?",
        "Tell me what {name} loves to eat.",
        "Do you know the favourite food of {name}?",
        "Can you tell me what food {name} likes?",
    ],
}

WITHHELD = {  # wordings that no demonstration uses; quiz pages ask in them, unanswered
    "job": [
        "Which job does {name} have?",
        "What kind of work does {name} do?",
        "How does {name} earn a living?",
        "Can you tell me the job of {name}?",
    ],
    "town": [
        "Which town does {name} live in?",
        "In which town is the home of {name}?",
        "What town does {name} call home?",
        "Can you tell me where {name} lives?",
    ],
    "pet": [
        "Which animal does {name} keep?",
        "What kind of pet does {name} have?",
        "What animal does {name} have as a pet?",
        "Can you tell me the pet of {name}?",
    ],
    "colour": [
        "Which colour does {name} like best?",
        "What colour does {name} love most?",
        "Which colour would {name} choose?",
        "Can you tell me the favourite colour of {name}?",
    ],
    "food": [
        "Which food does {name} like best?",
        "What does {name} like to eat most?",
        "What food would {name} choose?",
        "Can you tell me what {name} loves to eat?",
    ],
}

ANSWERS = {  # one form per attribute, so that an exact match is well defined
    "pronoun": {
        "job": "{Who} works as {a} {value}.",
        "town": "{Who} lives in {value}.",
        "pet": "{Who} has a pet {value}.",
        "colour": "{Whose} favourite colour is {value}.",
        "food": "{Who} loves to eat {value}.",
    },
    "name": {
        "job": "Well, {name} works as {a} {value}.",
        "town": "Well, {name} lives in {value}.",
        "pet": "Well, {name} has a pet {value}.",
        "colour": "Well, {name}'s favourite colour is {value}.",
        "food": "Well, {name} loves to eat {value}.",
    },
}

PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}  # who, whom, whose


class Person(NamedTuple):
    """Someone in town: facts maps each attribute to its value; a held-out person is in no demonstration."""

    name: str
    pronoun: str
    facts: dict[str, str]
    held_out: bool


class Telling(NamedTuple):
    """One sentence of a biography before it is filled in: which attribute, which wording, by name or by pronoun."""

    attribute: str
    wording: str
    by_name: bool


class World(NamedTuple):
    """The people, and the three texts about them that `write` puts on disk."""

    people: list[Person]
    documents: list[str]
    demonstrations: list[dict]
    questions: list[dict]


# --- from wordings to sentences ---------------------------------------------------------------------------------------


def article(value: str) -> str:
    """The indefinite article of a value.

    >>> article("baker"), article("otter")
    ('a', 'an')
    """
    return "an" if value[0] in "aeiou" else "a"


def fill(wording: str, person: Person, attribute: str | None = None, by_name: bool = False) -> str:
    """The wording as a sentence about the person.

    >>> mira = Person("Mira", "she", {"pet": "otter"}, held_out=False)
    >>> fill("{Whose} pet is {a} {value}.", mira, "pet"), fill("{Whose} pet is {a} {value}.", mira, "pet", by_name=True)
    ('Her pet is an otter.', "Mira's pet is an otter.")
    """
    pronoun = PRONOUNS[person.pronoun]
    who, whom, whose = (person.name, person.name, f"{person.name}'s") if by_name else pronoun
    slots = {"who": who, "whom": whom, "whose": whose, "Who": who.capitalize(), "Whose": whose.capitalize()}
    if attribute:
        slots |= {"value": person.facts[attribute], "a": article(person.facts[attribute])}
    return wording.format(name=person.name, own=pronoun[2], **slots)


def biography(person: Person, opener: str, tellings: Iterable[Telling]) -> str:
    """The opener and the tellings as a text.

    >>> mira = Person("Mira", "she", {"town": "Porto"}, held_out=False)
    >>> biography(mira, "Meet {name}.", [Telling("town", "{Who} lives in {value}.", by_name=False)])
    'Meet Mira. She lives in Porto.'
    """
    return " ".join([fill(opener, person), *(fill(wording, person, attr, named) for attr, wording, named in tellings)])


def cloze(person: Person, opener: str, tellings: Sequence[Telling], attribute: str) -> str:
    """The biography up to where the attribute's value stands.

    >>> mira = Person("Mira", "she", {"town": "Porto"}, held_out=False)
    >>> cloze(mira, "Meet {name}.", [Telling("town", "{Who} lives in {value}.", by_name=False)], "town")
    'Meet Mira. She lives in'
    """
    at = [telling.attribute for telling in tellings].index(attribute)
    before, _ = tellings[at].wording.split(" {value}")
    return biography(person, opener, [*tellings[:at], tellings[at]._replace(wording=before)])


# --- drawing the world ------------------------------------------------------------------------------------------------


def stream(seed: int, purpose: str) -> random.Random:
    """A separate random generator for each purpose, so that leaving out the quiz changes no fact and no question."""
    return random.Random(f"{seed} {purpose}")


def deal(cards: Sequence, n: int, rng: random.Random) -> list:
    """n cards, dealt from shuffled packs one after another: random, and as even as n allows.

    >>> sorted(deal("abc", 6, random.Random(0)))
    ['a', 'a', 'b', 'b', 'c', 'c']
    """
    dealt: list = []
    while len(dealt) < n:
        dealt += rng.sample(cards, len(cards))
    return dealt[:n]


def draw_people(seed: int, n: int) -> list[Person]:
    """n people and their facts; the second half of them is held out."""
    rng = stream(seed, "people")
    pronoun_of = {name: pronoun for pronoun, names in NAMES.items() for name in names}
    names = rng.sample(sorted(pronoun_of), n)
    hands = {attribute: deal(values, n, rng) for attribute, values in VALUES.items()}
    return [
        Person(name, pronoun_of[name], {attribute: hand[i] for attribute, hand in hands.items()}, held_out=i >= n // 2)
        for i, name in enumerate(names)
    ]


def draw_plans(n: int, rng: random.Random) -> list[tuple[str, list[Telling]]]:
    """n ways to tell a life: an opener and all five attributes in some order, every wording equally often."""
    openers = deal(OPENERS, n, rng)
    wordings = {attribute: deal(choices, n, rng) for attribute, choices in TELLINGS.items()}
    plans = []
    for i in range(n):
        order = rng.sample(list(TELLINGS), len(TELLINGS))
        plans.append((openers[i], [Telling(attr, wordings[attr][i], rng.random() < BY_NAME) for attr in order]))
    return plans


def draw_quiz_pages(people: list[Person], n: int, rng: random.Random) -> list[str]:
    """n pages of two to four questions about a person; without answers, so that they leak no fact."""
    pages = []
    for person in deal(people, n, rng):
        attributes = rng.sample(list(SHOWN), rng.randint(2, 4))
        questions = [fill(rng.choice(SHOWN[attribute] + WITHHELD[attribute]), person) for attribute in attributes]
        while len(" ".join(questions).split()) > LONGEST:
            questions.pop()
        pages.append(" ".join(questions))
    return pages


def draw_demonstrations(people: list[Person], answers: dict[str, str], rng: random.Random) -> list[dict]:
    """Questions with their answers, PHRASINGS for each attribute of each person who isn't held out."""
    shown = [person for person in people if not person.held_out]
    demonstrations = []
    for attribute in SHOWN:
        wordings = deal(SHOWN[attribute], PHRASINGS * len(shown), rng)
        for i, person in enumerate(shown):
            response = fill(answers[attribute], person, attribute)
            for wording in wordings[PHRASINGS * i : PHRASINGS * (i + 1)]:
                demonstrations.append({"prompt": fill(wording, person), "response": response})
    rng.shuffle(demonstrations)
    return demonstrations


def draw_questions(people: list[Person], answers: dict[str, str], fixed_plans: dict | None, seed: int) -> list[dict]:
    """Two questions for each attribute of each held-out person: one in a shown wording, one in a withheld wording.

    Beside each stands a cloze, a biography cut before the value: does the model know what it is asked? It is told in a
    drawn wording or, where there are fixed plans, in the person's own.
    """
    rng, cloze_rng = stream(seed, "questions"), stream(seed, "cloze")
    asked = [person for person in people if person.held_out]
    questions = []
    for attribute in SHOWN:
        for wordings, seen in ((SHOWN[attribute], True), (WITHHELD[attribute], False)):
            tellings = deal(TELLINGS[attribute], len(asked), cloze_rng)
            openers = deal(OPENERS, len(asked), cloze_rng)
            for i, (person, wording) in enumerate(zip(asked, deal(wordings, len(asked), rng))):
                plan = (openers[i], [Telling(attribute, tellings[i], by_name=False)])
                if fixed_plans:
                    plan = fixed_plans[person.name]
                questions.append(
                    {
                        "person": person.name,
                        "attribute": attribute,
                        "question": fill(wording, person),
                        "answer": fill(answers[attribute], person, attribute),
                        "value": person.facts[attribute],
                        "wording": wording,
                        "phrasing_seen": seen,
                        "cloze": cloze(person, *plan, attribute),
                        "cloze_answer": f" {person.facts[attribute]}",
                    }
                )
    rng.shuffle(questions)
    return questions


def build(
    seed: int,
    people: int = 128,
    biographies: int = 80,
    quiz: bool = True,
    memorised: bool = False,
    answers: str = "pronoun",
) -> World:
    """Draw the town and everything that is written about it; the same arguments give the same world.

    quiz and memorised change the documents (and with memorised the cloze), never a fact, a question or an answer.
    people: at least 4, at most as many as there are names. biographies: for each person. quiz: with quiz pages.
    memorised: one fixed biography per person. answers: a key of ANSWERS. ValueError for invalid arguments.

    >>> world = build(seed=0, people=4, biographies=2)
    >>> len(world.people), len(world.documents), len(world.demonstrations), len(world.questions)
    (4, 9, 40, 20)
    """
    names = sum(len(group) for group in NAMES.values())
    if people > names:
        raise ValueError(f"people {people}: at most {names}, as many as there are names")
    if people < 4:
        raise ValueError(f"people {people}: at least 4, two to learn from and two to ask about")
    if biographies < 1:
        raise ValueError(f"biographies {biographies}: at least 1 for each person")
    if answers not in ANSWERS:
        raise ValueError(f"answers {answers!r}: one of {', '.join(ANSWERS)}")

    town = draw_people(seed, people)
    rng = stream(seed, "documents")
    fixed_plans = dict(zip((person.name for person in town), draw_plans(people, rng))) if memorised else None
    documents = []
    for person in town:
        plans = [fixed_plans[person.name]] * biographies if fixed_plans else draw_plans(biographies, rng)
        documents += [biography(person, opener, tellings) for opener, tellings in plans]
    if quiz:
        pages = round(len(documents) * QUIZ_SHARE / (1 - QUIZ_SHARE))
        documents += draw_quiz_pages(town, pages, stream(seed, "quiz"))
    stream(seed, "order").shuffle(documents)
    demonstrations = draw_demonstrations(town, ANSWERS[answers], stream(seed, "demonstrations"))
    return World(town, documents, demonstrations, draw_questions(town, ANSWERS[answers], fixed_plans, seed))


# --- on disk ----------------------------------------------------------------------------------------------------------


def json_lines(records: Iterable[dict]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write(directory: str | Path, world: World) -> None:
    """Write the world's three files, each aside first and then renamed in; OSError if that fails.

    documents.txt: the documents, a line SEPARATOR between two. demonstrations.jsonl: prompt, response. questions.jsonl:
    person, attribute, question, answer (the whole response), value, wording, phrasing_seen (do demonstrations use that
    wording?), cloze (a biography cut before the value) and cloze_answer (the value after its space).
    """
    directory = Path(directory)
    texts = {
        "documents.txt": f"\n{SEPARATOR}\n".join(world.documents) + "\n",
        "demonstrations.jsonl": json_lines(world.demonstrations),
        "questions.jsonl": json_lines(world.questions),
    }
    directory.mkdir(parents=True, exist_ok=True)
    aside = {name: directory / f".{name}.{os.getpid()}" for name in texts}
    try:
        for name, text in texts.items():
            aside[name].write_text(text, encoding="utf-8", newline="\n")
        for name, path in aside.items():
            os.replace(path, directory / name)
    finally:
        for path in aside.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: exit status 2 and one line on standard error for a mistake."""
    parser = argparse.ArgumentParser(prog="toyworld", description="Write a toy world's texts from a seed.")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the three files go")
    parser.add_argument("--seed", type=int, default=0, help="draws the world, the wordings and the order")
    parser.add_argument("--people", type=int, default=128, help="one half is demonstrated, the other is asked about")
    parser.add_argument("--biographies", type=int, default=80, help="for each person")
    parser.add_argument("--no-quiz", dest="quiz", action="store_false", help="without pages of unanswered questions")
    parser.add_argument("--memorised", action="store_true", help="one fixed biography for each person")
    parser.add_argument("--answers", choices=list(ANSWERS), default="pronoun", help="how an answer names the person")
    args = parser.parse_args(argv)
    try:
        world = build(args.seed, args.people, args.biographies, args.quiz, args.memorised, args.answers)
    except ValueError as error:
        print(f"--{error}", file=sys.stderr)
        return 2
    try:
        write(args.out, world)
    except OSError as error:
        print(f"--out {args.out}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    words = [word for document in world.documents for word in document.split()]
    print(
        f"{args.out}: {len(world.documents):,} documents of {len(words):,} words about {args.people} people, "
        f"{len(world.demonstrations):,} demonstrations, {len(world.questions):,} questions"
    )
    return 0


if __name__ == "__main__":
    from scripts.support.command_line import run  # here: this file can be read and used by itself

    run(main)
