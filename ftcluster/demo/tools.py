"""The task of the demo: turn a request in English or Chinese into a JSON call of one of five tools.

Owns the tools, the ways people ask for them, and the answer to each request. An argument is either
copied from the request as it stands (a city, a restaurant, a text) or brought to one form (a day to its
English name, a currency to its code, a number word to digits).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from ftcluster.demo import words

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class Value:
    """One argument: how a request says it, and what the call holds."""

    said: str
    meant: str | int


@dataclass(frozen=True)
class Tool:
    """``arguments`` maps names, in the order of the call, to a kind of value in ``KINDS``."""

    name: str
    arguments: dict[str, str]
    requests: dict[Language, tuple[str, ...]]


TOOLS = (
    Tool(
        "get_weather",
        {"city": "city", "day": "day"},
        {
            "en": (
                "what is the weather in {city} {on_day}",
                "how is the weather {on_day} in {city}",
                "tell me the weather for {city} {on_day}",
                "will it rain in {city} {on_day}",
                "do I need an umbrella {on_day} in {city}",
                "show the forecast for {city} {on_day}",
            ),
            "zh": (
                "{day}{city}的天气怎么样",
                "查一下{city}{day}的天气",
                "告诉我{city}{day}的天气",
                "{city}{day}会下雨吗",
                "{day}在{city}要带伞吗",
                "看看{day}{city}的天气预报",
            ),
        },
    ),
    Tool(
        "set_timer",
        {"minutes": "minutes", "label": "thing"},
        {
            "en": (
                "set a timer of {minutes} minutes for {label}",
                "start a {minutes} minute timer for {label}",
                "remind me about {label} in {minutes} minutes",
                "count down {minutes} minutes for {label}",
                "wake me for {label} after {minutes} minutes",
            ),
            "zh": (
                "为{label}定一个{minutes}分钟的计时器",
                "{minutes}分钟后提醒我{label}",
                "{label}计时{minutes}分钟",
                "{label}倒数{minutes}分钟",
                "过{minutes}分钟叫我{label}",
            ),
        },
    ),
    Tool(
        "book_table",
        {"restaurant": "restaurant", "people": "count", "day": "day"},
        {
            "en": (
                "book a table for {people} at {restaurant} {on_day}",
                "reserve a table at {restaurant} for {people} people {on_day}",
                "get us {people} seats at {restaurant} {on_day}",
                "{on_day} we are {people}, book a table at {restaurant}",
                "find a table for {people} {on_day} at {restaurant}",
            ),
            "zh": (
                "{day}在{restaurant}订一张{people}人的桌子",
                "订{restaurant}{day}{people}个人的位子",
                "{restaurant}{day}有{people}个人的位子吗",
                "我们{people}个人{day}想去{restaurant}吃饭",
                "给{people}个人订{day}的{restaurant}",
            ),
        },
    ),
    Tool(
        "convert_currency",
        {"amount": "amount", "from": "currency", "to": "currency"},
        {
            "en": (
                "convert {amount} {from} to {to}",
                "change {amount} {from} into {to}",
                "how many {to} are {amount} {from}",
                "what are {amount} {from} in {to}",
                "I have {amount} {from} and need {to}",
            ),
            "zh": (
                "把{amount}{from}换成{to}",
                "{amount}{from}是多少{to}",
                "{amount}{from}能换多少{to}",
                "我有{amount}{from}，想要{to}",
                "算一下{amount}{from}等于多少{to}",
            ),
        },
    ),
    Tool(
        "translate",
        {"text": "phrase", "language": "language"},
        {
            "en": (
                "translate {text} into {language}",
                "how do you say {text} in {language}",
                "say {text} in {language}",
                "what is {text} in {language}",
                "put {text} into {language}",
            ),
            "zh": (
                "把{text}翻译成{language}",
                "{text}用{language}怎么说",
                "用{language}说{text}",
                "{text}的{language}是什么",
                "{language}里{text}怎么讲",
            ),
        },
    ),
)

_OPENINGS: dict[Language, tuple[str, ...]] = {
    "en": ("", "", "hello, ", "hi there, ", "quick question: "),
    "zh": ("", "", "你好，", "问一下，", "请问，"),
}


def _copied(pairs: words.Pairs) -> Callable[[Random, Language], Value]:
    def draw(random: Random, language: Language) -> Value:
        english, chinese = random.choice(pairs)
        said = english if language == "en" else chinese
        return Value(said, said)

    return draw


def _named(pairs: words.Pairs) -> Callable[[Random, Language], Value]:
    def draw(random: Random, language: Language) -> Value:
        english, chinese = random.choice(pairs)
        return Value(english if language == "en" else chinese, english)

    return draw


def _coded(rows: tuple[tuple[str | int, str, str], ...]) -> Callable[[Random, Language], Value]:
    def draw(random: Random, language: Language) -> Value:
        code, english, chinese = random.choice(rows)
        return Value(english if language == "en" else chinese, code)

    return draw


def _number(low: int, high: int) -> Callable[[Random, Language], Value]:
    def draw(random: Random, _: Language) -> Value:
        number = random.randint(low, high)
        return Value(str(number), number)

    return draw


KINDS: dict[str, Callable[[Random, Language], Value]] = {
    "city": _copied(words.CITIES),
    "restaurant": _copied(words.RESTAURANTS),
    "phrase": _copied(words.PHRASES),
    "thing": _copied(words.THINGS),
    "day": _named(words.DAYS),
    "language": _named(words.LANGUAGES),
    "currency": _coded(words.CURRENCIES),
    "count": _coded(words.COUNTS),
    "minutes": _number(2, 60),
    "amount": _number(5, 99),
}


def ask(tool: Tool, language: Language, random: Random) -> tuple[str, str]:
    """One request and its answer, the compact JSON call."""
    while True:
        values = {name: KINDS[kind](random, language) for name, kind in tool.arguments.items()}
        if len({value.meant for value in values.values()}) == len(values):  # no dollars to dollars
            break
    said = {name: value.said for name, value in values.items()}
    if "day" in said:
        said["on_day"] = said["day"] if said["day"].islower() else f"on {said['day']}"
    request = random.choice(_OPENINGS[language]) + random.choice(tool.requests[language]).format(**said)
    call = {"tool": tool.name, "arguments": {name: value.meant for name, value in values.items()}}
    return request[0].upper() + request[1:], json.dumps(call, ensure_ascii=False, separators=(",", ":"))
