"""Answers side by side: what is marked, and which prompts are shown where."""

from __future__ import annotations

from dataclasses import replace

from comparison_samples import sample

from ftcluster.comparison.answers import Piece, marked, questions


def test_only_what_differs_is_marked() -> None:
    assert list(marked("call Paris on day 3", "call Lima on day 3")) == [
        Piece("call ", False),
        Piece("Paris", True),
        Piece(" on day 3", False),
    ]


def test_chinese_is_compared_character_by_character() -> None:
    assert list(marked("去上每的票", "去上海的票")) == [Piece("去上", False), Piece("每", True), Piece("的票", False)]


def test_what_an_answer_leaves_out_is_a_gap_that_names_it() -> None:
    assert Piece("", True, "not ") in list(marked("it is late", "it is not late"))


def test_a_right_answer_has_no_marks_even_with_spaces_around_it() -> None:
    assert list(marked(" yes\n", "yes")) == [Piece(" yes\n", False)]


def test_the_pieces_are_the_whole_answer() -> None:
    answer = '{"tool":"weather", "城市": "上每", "n": 12}\n再见'
    assert "".join(piece.text for piece in marked(answer, '{"tool":"get_weather","城市":"上海"}')) == answer


def test_an_endless_answer_is_not_compared_piece_by_piece() -> None:
    assert list(marked("a b " * 5000, "a")) == [Piece("a b " * 5000, False)]


def test_each_prompt_has_the_base_then_the_best_in_their_order() -> None:
    first = questions(sample())[0]
    assert [answer.subject for answer in first.answers] == ["base", "demo-004", "demo-005", "demo-002"]


def test_prompts_are_sorted_into_views() -> None:
    found = questions(sample())
    gained = [q for q in found if "gained" in q.tags]
    assert gained
    assert all(q.answers[1].right and not q.answers[0].right for q in gained)
    assert all("wrong" in q.tags for q in found if not q.answers[1].right)
    assert not any("lost" in q.tags for q in found)


def test_an_answer_that_did_not_stop_is_known_as_such() -> None:
    assert not questions(sample())[8].answers[1].finished


def test_plain_text_has_no_answers_to_show() -> None:
    assert questions(sample(answers=False)) == []


def test_the_base_may_be_missing() -> None:
    assert questions(replace(sample(), base=None))[0].answers[0].subject == "demo-004"
