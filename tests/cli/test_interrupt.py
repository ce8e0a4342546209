"""Ctrl-C while a command's modules are still being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from posewarp.runtime import command

# Sends the signal in the midst of the import of a module, then does what the installed ``posewarp`` does. It comes
# where an exception would be printed and lost, as in the callbacks by which the import system releases its locks.
START = """
import os, signal, sys

class Callback:
    def __del__(self):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            Callback()

sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run in the background
from posewarp.cli.main import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "rich.table", "numpy", "onnx", "onnx.helper"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_an_import_ends_the_command_without_a_word(module, number, code):
    environment = {**os.environ, "AT": module, "SIGNAL": str(int(number))}
    arguments = [sys.executable, "-c", START, "parity", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_after_the_imports_signals_are_handled_as_before():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("handled"))
    try:
        with command.importing():
            assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
        assert seen == ["handled"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with command.importing():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
