"""Plain text for the demo's base model: what it may know before it is fine-tuned.

Owns lines about the same small world as the task: sentences, records beside the sentence they restate,
glossary lines and lines said twice. They teach the words, JSON and copying. None of them is a request,
none calls a tool, so the base model cannot know the task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random

from ftcluster.demo import words

_POOLS = (words.CITIES, words.DAYS, words.RESTAURANTS, words.LANGUAGES, words.PHRASES, words.THINGS, words.NAMES)
_KEYS: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        "city day minutes label restaurant people amount from to text language name tool_box arguments_list place time "
        "note old_weather egg_timer round_table paper_currency translate get set book convert count",
    )
)


def line(random: Random) -> str:
    """One line of text, English or Chinese."""
    return random.choice(_MAKERS)(random)


def _word(random: Random) -> str:
    kind = random.randrange(7)
    if kind == 0:
        return str(random.randint(1, 99))
    if kind == 1:
        return str(random.choice(random.choice((words.CURRENCIES, words.COUNTS)))[random.randrange(3)])
    if kind > 5:
        return random.choice(words.COMMON)
    return random.choice(random.choice(_POOLS))[random.randrange(2)]


def _dump(record: object) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _twice(random: Random) -> str:
    """The same few words again: the plainest lesson in copying."""
    said = " ".join(_word(random) for _ in range(random.randint(2, 6)))
    return f"{said} | {said}"


def _listed(random: Random) -> str:
    """Words, then the same words as a JSON list."""
    said = [_word(random) for _ in range(random.randint(2, 5))]
    return f"{' '.join(said)} {_dump(said)}"


def _record(random: Random) -> str:
    """A JSON record, then one of its fields again as a record of its own."""
    keys = random.sample(_KEYS, random.randint(2, 4))
    record: dict[str, object] = {key: random.randint(1, 99) if random.random() < 0.3 else _word(random) for key in keys}
    key = random.choice(keys)
    return f"{_dump({'note': record})} {_dump({key: record[key]})}"


def _glossary(random: Random) -> str:
    if random.random() < 0.4:
        code, english, chinese = random.choice(random.choice((words.CURRENCIES, words.COUNTS)))
        said = [str(code), english, chinese]
    else:
        said = list(random.choice(random.choice(_POOLS)))
    random.shuffle(said)
    return " = ".join(said)


def _glossary_record(random: Random) -> str:
    if random.random() < 0.5:
        code, english, chinese = random.choice(random.choice((words.CURRENCIES, words.COUNTS)))
        return f"{random.choice((english, chinese))} {_dump({'note': code})}"
    english, chinese = random.choice(random.choice((words.DAYS, words.LANGUAGES)))
    return f"{random.choice((english, chinese))} {_dump({'note': english})}"


def _trip(random: Random) -> str:
    side = random.randrange(2)
    name, start, end = (random.choice(p)[side] for p in (words.NAMES, words.CITIES, words.CITIES))
    days = random.choice(words.DAYS)
    day = days[side]
    said = (f"{name} went from {start} to {end}, it was {day}.", f"{name}{day}从{start}到{end}去。")[side]
    return f"{said} {_dump({'from': start, 'to': end, 'day': days[0]})}"


def _diary(random: Random) -> str:
    side = random.randrange(2)
    name, thing = (random.choice(p)[side] for p in (words.NAMES, words.THINGS))
    days = random.choice(words.DAYS)
    said = (f"{days[0]}: {name} had {thing}.", f"{days[1]}{name}有{thing}。")[side]
    return f"{said} {_dump({'day': days[0], 'name': name})}"


def _meal(random: Random) -> str:
    side = random.randrange(2)
    name, place, thing = (random.choice(p)[side] for p in (words.NAMES, words.RESTAURANTS, words.THINGS))
    count, *said_count = random.choice(words.COUNTS)
    said = (
        f"{name} and {said_count[0]} people had {thing} at {place}.",
        f"{name}和{said_count[1]}个人在{place}，有{thing}。",
    )[side]
    return f"{said} {_dump({'place': place, 'people': count})}"


def _price(random: Random) -> str:
    side = random.randrange(2)
    name, thing = (random.choice(p)[side] for p in (words.NAMES, words.THINGS))
    code, *said_code = random.choice(words.CURRENCIES)
    amount, minutes = random.randint(5, 99), random.randint(2, 60)
    said = (
        f"{name} paid {amount} {said_code[0]} for {thing} after {minutes} minutes.",
        f"{name}{minutes}分钟后用{amount}{said_code[1]}买{thing}。",
    )[side]
    return f"{said} {_dump({'amount': amount, 'currency': code, 'minutes': minutes})}"


def _speech(random: Random) -> str:
    side = random.randrange(2)
    name, phrase = (random.choice(p)[side] for p in (words.NAMES, words.PHRASES))
    languages = random.choice(words.LANGUAGES)
    language = languages[side]
    said = (f"{name} said {phrase} in {language}.", f"{name}说了{phrase}，是{language}。")[side]
    return f"{said} {_dump({'language': languages[0], 'text': phrase})}"


_MAKERS: tuple[Callable[[Random], str], ...] = (
    _twice,
    _listed,
    _record,
    _glossary,
    _glossary_record,
    _trip,
    _diary,
    _meal,
    _price,
    _speech,
)
