"""What is printed on stdout by others than Python, and where it goes."""

from __future__ import annotations

import ctypes
import os

import pytest

from posewarp.runtime.backends.captured import captured_stdout


def test_noise_is_dropped_and_what_others_print_meanwhile_comes_after(capfd):
    puts = ctypes.CDLL(None).puts  # the C library keeps what it prints to a pipe till it has some KiB
    puts(b"before")
    with captured_stdout(("noise",)) as said:
        puts(b"noise 1\nanother thread\nnoise 2")
        assert said() == "another thread"
        os.write(1, b"and more")
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\nanother thread\nand more\nafter\n"


def test_after_an_error_the_text_is_in_its_message_and_stdout_works_again(capfd):
    def fail():
        with captured_stdout(()) as said:
            os.write(1, b"a\n b\n")
            raise ValueError(said())

    with pytest.raises(ValueError, match=r"^a b$"):
        fail()
    print("after", flush=True)
    assert capfd.readouterr().out == "after\n"


def test_a_closed_stdout_is_left_alone():
    kept = os.dup(1)
    os.close(1)
    try:
        with captured_stdout(()) as said:
            assert said() == "it printed why"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(1)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
