"""Text in a terminal: how wide it is, where it breaks, and what of it must not get there."""

import io
import logging
import os

import pytest

from dunwu._utils import logging as dunwu_logging
from dunwu._utils.logging import get_logger, set_verbosity
from dunwu._utils.terminal_text import display_width, pad_left, pad_right, printable, shorten, wrap


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert [display_width(text) for text in ("ab", "顿悟", "e\u0301", "Ａ", "\u200b", "–…×")] == [2, 4, 1, 2, 0, 3]
    assert pad_left("悟", 4) == "  悟" and pad_right("悟", 4) == "悟  " and pad_left("abc", 2) == "abc"


def test_a_text_is_shortened_to_columns_and_not_to_characters() -> None:
    assert shorten("abcd", 4) == "abcd" and shorten("abcde", 4) == "abc…"
    assert (
        shorten("顿悟顿悟", 6) == "顿悟…" and shorten("顿悟顿", 6) == "顿悟顿" and shorten("顿悟顿悟", 7) == "顿悟顿…"
    )


def test_lines_break_between_words_and_go_on_indented() -> None:
    assert wrap("one two three four", 10) == "one two\n  three\n  four"
    assert wrap("first\none two three", 20) == "first\none two three"
    assert wrap("a" * 30 + " b", 10) == "a" * 30 + "\n  b", "a word is never torn apart"


def test_lines_that_begin_with_two_spaces_are_left_to_be_copied() -> None:
    command = "  torchrun --nproc_per_node 2 train.py"
    assert wrap(f"start it by\n{command}", 12) == f"start it by\n{command}"


def test_chinese_breaks_between_characters_but_not_before_a_full_stop() -> None:
    assert wrap("顿悟顿悟顿悟", 8, indent="") == "顿悟顿悟\n顿悟"
    assert wrap("顿悟顿悟。顿悟", 8, indent="") == "顿悟顿\n悟。顿悟"
    assert all(
        display_width(line) <= 20
        for line in wrap("奖励函数 equation_solves 一直为零，请检查。" * 3, 20).split("\n")[:-1]
    )


def test_control_characters_are_written_as_escapes() -> None:
    assert printable("a\x1b[2Jb\tc\nd\x07\x9b顿") == "a\\x1b[2Jb\tc\nd\\x07\\x9b顿"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def forget_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script that has set up no logging."""
    logger = logging.getLogger("dunwu")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def test_a_log_line_is_wrapped_on_a_terminal_and_left_whole_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_handlers(monkeypatch)
    sentence = "the loss does not show progress, by construction: watch reward, length and grad_norm"
    monkeypatch.setattr(dunwu_logging.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    for stream, lines in ((Screen(), 3), (io.StringIO(), 1)):
        monkeypatch.setattr("sys.stdout", stream)
        get_logger().info(sentence)
        assert len(stream.getvalue().splitlines()) == lines
    assert " ".join(stream.getvalue().split()) == sentence


def test_what_goes_on_inside_is_logged_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_handlers(monkeypatch)
    get_logger().debug("a copy")
    set_verbosity(True)
    get_logger().debug("a budget")
    get_logger().debug_once("once")
    get_logger().debug_once("once")
    set_verbosity(False)
    get_logger().debug("an id")
    get_logger().info("steps")
    dunwu_logging.forget_logged_once()
    assert capsys.readouterr().out == "a budget\nonce\nsteps\n"
