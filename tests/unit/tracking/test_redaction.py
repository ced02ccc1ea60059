"""What may be written down: dotted keys, no secrets, and no hyperparameter mistaken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.tracking.redaction import HIDDEN, flat_settings, hide_secrets, hide_url_users


def test_nested_settings_become_dotted_keys_and_lists_stay_values() -> None:
    assert flat_settings({"optim": {"adam": {"beta1": 0.9}}, "targets": ["q_proj", "v_proj"], "none": {}}) == {
        "optim.adam.beta1": 0.9,
        "targets": ["q_proj", "v_proj"],
        "none": {},
    }


@pytest.mark.parametrize(
    "key",
    [
        *("hf_token", "HF_TOKEN", "apiTokens", "client_secret", "Password", "db.passwd"),
        *("api_key", "apiKey", "API-KEY", "aws_credentials", "credentials.user"),
    ],
)
def test_a_value_under_a_secret_name_is_hidden(key: str) -> None:
    assert hide_secrets(key, "abc") == HIDDEN


def test_a_numeric_password_is_hidden_too() -> None:
    assert hide_secrets("password", 1234) == HIDDEN


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation.max_new_tokens", 64),
        ("tokenizer", "models/qwen"),
        ("pad_token_id", 0),
        ("hf_token", None),
        ("use_token", True),
        ("optim.lr", 1e-3),
    ],
)
def test_a_hyperparameter_is_not_mistaken_for_a_secret(key: str, value: object) -> None:
    assert hide_secrets(key, value) == value


def test_secrets_are_found_below_secret_sections_and_inside_lists() -> None:
    assert flat_settings({"credentials": {"user": "me"}, "stores": [{"password": "x", "port": 5432}]}) == {
        "credentials.user": HIDDEN,
        "stores": [{"password": HIDDEN, "port": 5432}],
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p@ss@db:5432/x", "postgresql://***@db:5432/x"),
        ("https://ghp_abc@github.com/a/b.git", "https://***@github.com/a/b.git"),
        ("see https://host/a?mail=me@x and s3://k:s@bucket/y", "see https://host/a?mail=me@x and s3://***@bucket/y"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_the_user_of_a_url_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hide_url_users(text) == shown


def test_urls_in_lists_lose_their_users_and_other_values_pass() -> None:
    assert hide_secrets("data.train", ["https://u:p@h/x.json", 3]) == ["https://***@h/x.json", 3]
    assert hide_secrets("model.path", Path("m")) == Path("m")
