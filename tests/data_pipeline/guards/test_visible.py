"""What a stranger's text may do to a terminal or a page: be read."""

import pytest

from tracestill.data_pipeline.guards.visible import in_html, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\x7f\x9b31m\x85", "a\\rb\\x7f\\x9b31m\\x85"),
        ("rm \u202egpj.exe\u2069", "rm \\u202egpj.exe\\u2069"),
        ("a\u2028b\ufeff", "a\\u2028b\\ufeff"),
        ("name-\udcff", "name-\\udcff"),
        ("\U000e0041\U000e007f", "\\U000e0041\\U000e007f"),
        ("a\u200bb\u2060c\xadd", "a\\u200bb\\u2060c\\xadd"),
        ("\u3164\u115f\u180e\ufe00\U000e0101", "\\u3164\\u115f\\u180e\\ufe00\\U000e0101"),
        ("می\u200cخواهم, ❤\ufe0f\u200d🔥", None),
        ("plain\n\ttext, Größe, 三百, שלום, 👩\u200d👧, नमस्ते \\x1b", None),
    ],
)
def test_what_a_terminal_would_obey_is_written_out_and_letters_stay(text, shown):
    assert visible(text) == (text if shown is None else shown)


def test_one_line_and_a_page():
    assert one_line("a\nb\r\n") == "a↵b\\r↵"
    assert in_html("<b>\u202e\"'&\x1b") == "&lt;b&gt;\\u202e&quot;&#x27;&amp;\\x1b"
