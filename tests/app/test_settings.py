"""Settings of the server."""

from pathlib import Path

import pytest

from app.exceptions import SettingsError
from app.settings import Settings, read_settings


def test_flag_takes_precedence_over_the_environment() -> None:
    environment = {"CHAT_MODEL": "/weights", "CHAT_MAX_QUEUE": "7", "CHAT_PORT": "1"}
    settings = read_settings(["--max-queue", "9"], environment)
    assert (settings.max_queue, settings.port, settings.model) == (9, 1, Path("/weights"))


def test_empty_variable_is_ignored() -> None:
    assert read_settings(["--model", "/weights"], {"CHAT_MAX_CONTEXT": ""}).max_context is None


def test_name_defaults_to_the_directory_name() -> None:
    assert read_settings(["--model", "/models/demo"], {}).name == "demo"
    assert read_settings(["--model", "/models/demo", "--name", "mini-4k"], {}).name == "mini-4k"


def test_adapter_weights_are_parsed_by_name() -> None:
    environment = {"CHAT_MODEL": "/weights", "CHAT_ADAPTER_WEIGHTS": "french=0.5, polite=-1"}
    assert read_settings([], environment).adapter_weights == {"french": 0.5, "polite": -1.0}


def test_missing_model_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--model \(CHAT_MODEL\): Field required"):
        read_settings([], {})


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("CHAT_MAX_QUEUE", "-1", "greater than or equal to 0"),
        ("CHAT_PORT", "70000", "less than or equal to 65535"),
        ("CHAT_DTYPE", "float16", "'auto', 'float32' or 'bfloat16'"),
        ("CHAT_MAX_CONTEXT", "many", "valid integer"),
        ("CHAT_ADAPTER_WEIGHTS", "french", "must have the form french=0.5,polite=1"),
        ("CHAT_ADAPTER_WEIGHTS", "french=1,french=2", "name each adapter once"),
        ("CHAT_ADAPTER_WEIGHTS", "french=much", "valid number"),
        ("CHAT_ADAPTER_WEIGHTS", "french=nan", "finite number"),
    ],
)
def test_invalid_value_is_refused_with_the_allowed_values(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=allowed) as refused:
        read_settings(["--model", "/weights"], {variable: value})
    assert variable in str(refused.value)
    assert repr(value) in str(refused.value)


def test_help_lists_every_setting_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        read_settings(["--help"], {})
    assert exited.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert f"CHAT_{name.upper()}" in text
