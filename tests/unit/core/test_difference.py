"""Two requests that should be one are shown where they part."""

from __future__ import annotations

import json

from evalhpc.core.difference import closest, comparison, parting

LABELS = ("pass 0", "pass 10")


def body(prompt: str) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt}).encode()


def test_the_closest_pair_is_found() -> None:
    """Among unrelated questions, the one that differs by its shuffled choices."""
    old = [body("What is 2 + 2?"), body("Capital of France? A: Paris B: Rome")]
    new = [body("Name a planet."), body("Capital of France? A: Rome B: Paris")]
    assert closest(old, new) == (old[1], new[1])
    assert closest([], new) is None


def test_the_first_difference_is_marked() -> None:
    """The mark stands below the first character that differs, in lines of bounded length."""
    old, new = body("x" * 5000 + "\nA" + "y" * 5000), body("x" * 5000 + "\nB" + "y" * 5000)
    first, second, mark = parting(old, new, LABELS).splitlines()
    assert (first[len(mark) - 1], second[len(mark) - 1]) == ("A", "B")
    assert first.startswith(" pass 0: …")
    assert second.startswith("pass 10: …")
    assert max(map(len, (first, second, mark))) < 100


def test_a_text_that_is_the_start_of_the_other() -> None:
    """The mark then stands after its end."""
    first, second, mark = parting(b"ab", b"abc", LABELS).splitlines()
    assert (first, second, mark) == (" pass 0: ab", "pass 10: abc", " " * 11 + "^")


def test_the_whole_comparison_has_every_line() -> None:
    """JSON is indented, and what is the same stands there once."""
    text = comparison(body("a"), body("b"), LABELS)
    assert text.splitlines()[3:] == [" {", '  "model": "m",', '- "prompt": "a"', '+ "prompt": "b"',
                                     " }"]  # fmt: skip
    assert "-\ufffd" in comparison(b"\xff", b"x", LABELS)
