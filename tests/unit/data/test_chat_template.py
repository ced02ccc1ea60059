"""Chat templates are found by name, refused with their line when they are broken, and render as in transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from template_samples import FAMILIES
from transformers import PreTrainedTokenizerFast

from ftcluster.config.checks import TEMPLATES
from ftcluster.data.rows.example import Message
from ftcluster.data.text.chat_template import ChatTemplate, template_text
from ftcluster.data.text.template import Tokeniser
from ftcluster.data.text.tools import PROBE, PROBE_TOOLS, as_chats
from ftcluster.errors import DataError

Family = Callable[[str], PreTrainedTokenizerFast]
Make = Callable[..., PreTrainedTokenizerFast]
SHIPPED = [name for name in TEMPLATES if name != "model"]


def _both(
    tokenizer: PreTrainedTokenizerFast, chats: list[Any], tools: Any = None, *, prompt: bool = False
) -> list[str]:
    """What we and what transformers make of it; of an error its text."""
    ours = lambda: ChatTemplate(tokenizer)(chats, tools, prompt=prompt)  # noqa: E731
    theirs = lambda: tokenizer.apply_chat_template(  # noqa: E731
        chats, tools=tools, tokenize=False, add_generation_prompt=prompt
    )
    made = []
    for render in (ours, theirs):
        try:
            made.append(str(render()))
        except (TemplateError, TypeError, ValueError) as error:
            made.append(f"{type(error).__name__}: {error}")
    return made


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prompt", [False, True])
def test_tools_calls_and_results_render_as_in_transformers(family: Family, name: str, prompt: bool) -> None:
    for count in range(1, len(PROBE) + 1):
        for tools in (None, list(PROBE_TOOLS)):
            ours, theirs = _both(family(name), as_chats(PROBE[:count]), tools, prompt=prompt)
            assert ours == theirs


@settings(deadline=None, max_examples=50)
@given(st.data(), st.lists(st.text(), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_any_conversation_renders_as_in_transformers(
    family: Family, data: st.DataObject, said: list[str], system: bool, prompt: bool
) -> None:
    roles = [*(["system"] if system else []), *(["user", "assistant"] * len(said))]
    chats = as_chats([Message(role, text) for role, text in zip(roles, said, strict=False)])
    ours, theirs = _both(family(data.draw(st.sampled_from(sorted(FAMILIES)))), chats, prompt=prompt)
    assert ours == theirs


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates_render_as_in_transformers(make_tokenizer: Make, name: str) -> None:
    tokenizer = make_tokenizer(template_text(name), bos_token="<|endoftext|>")
    chats = as_chats([Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("tool", "c")])
    for count in range(1, 5):
        ours, theirs = _both(tokenizer, chats[:count], prompt=True)
        assert ours == theirs


@pytest.mark.parametrize(
    "text",
    [
        "{{ messages | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}",
        "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = loop.index %}{% endfor %}{{ ns.n }}",
        "{% set ns = namespace(_x=0) %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns }}",
        "{{ dict(a=1)['a'] }}{{ dict.fromkeys('ab', 1) }}",
        "{{ dict.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now('%Y') }}",
        "{{ raise_exception('no ' ~ messages[0].role) }}",
        "  {% if true %}\n  x\n  {% endif %}\n{{ bos_token }}{{ eos_token }}{{ documents is none }}{{ tools is none }}",
        "{{ messages[7].content }}",
        "{{ 'a' + 1 }}",
    ],
)
def test_functions_filters_and_refusals_are_those_of_transformers(make_tokenizer: Make, text: str) -> None:
    ours, theirs = _both(make_tokenizer(text), as_chats([Message("user", "<é & '>"), Message("assistant", "b")]))
    same_refusals = [word for word in ("underscore", "is unsafe") if word in theirs]  # in other words
    assert same_refusals[0] in ours if same_refusals else ours == theirs


def test_a_tokenizer_with_a_template_of_its_own_for_tools_has_it_used_for_them(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer({"default": "plain", "tool_use": "tools"})
    render = ChatTemplate(tokenizer)
    assert [render([], None), render([], list(PROBE_TOOLS))] == ["plain", "tools"]


def test_the_models_own_template_has_no_text_here() -> None:
    assert template_text("model") is None


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_template_is_taken_from_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "its.jinja").write_text(FAMILIES[name][0])
    assert template_text(str(tmp_path / "its.jinja")) == FAMILIES[name][0]


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}é\n{% endfor %}", encoding="utf-8")
    assert template_text(str(file)) == file.read_text(encoding="utf-8")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(DataError, match=r'data\.template: no chat template "chatlm"\. Did you mean chatml\?') as caught:
        template_text("chatlm")
    assert caught.value.remedy == "known: model, alpaca, chatml, plain, or a .jinja file of your own"
    assert set(SHIPPED) == {"alpaca", "chatml", "plain"}


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the chat template cannot be read: No such file") as caught:
        template_text(str(tmp_path / "none.jinja"))
    assert caught.value.where == str(tmp_path / "none.jinja")
    assert f"a relative path starts at {Path.cwd()}" in caught.value.remedy


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "odd.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="it is not UTF-8 text"):
        template_text(str(tmp_path / "odd.jinja"))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("{% for m in messages %}\n{{ m.content }\n{% endfor %}", 2, "is not valid Jinja: unexpected '}'"),
        ("\n\n{% for m in messages %}{{ m.content }}", 3, "is not valid Jinja: Unexpected end of template"),
        ("{{ messages | colour }}", 1, "is not valid Jinja: No filter named 'colour'"),
        ("\n{{ messages[5].content }}", 2, "fails on a question and its answer: list object has no element 5"),
        ("{% for m in messages %}\n\n{{ m.contnt + 'x' }}{% endfor %}", 3, "fails on a question and its answer: 'dict"),
        ("\n{{ messages[0].content + 1 }}", 2, "fails on a question and its answer: can only concatenate str"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    file = tmp_path / "broken.jinja"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        template_text(str(file))
    assert caught.value.message.startswith(f"the chat template {reason}")
    assert caught.value.where == f"{file}:{line}"
    assert "correct this line" in caught.value.remedy


def test_a_template_that_asks_for_other_turns_is_not_broken(tmp_path: Path) -> None:
    file = tmp_path / "strict.jinja"
    file.write_text("{% if messages[0].role != 'system' %}{{ raise_exception('a system turn first') }}{% endif %}")
    assert template_text(str(file))


def test_a_broken_template_of_the_model_is_an_error_with_its_line(make_tokenizer: Make) -> None:
    tokeniser = Tokeniser(make_tokenizer("a\n{% if %}"))
    with pytest.raises(DataError, match="chat_template:2: the chat template is not valid Jinja") as caught:
        tokeniser.prompt([Message("user", "a")])
    assert "data.template=chatml" in caught.value.remedy
