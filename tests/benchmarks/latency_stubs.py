"""Contenders for the tests of the harness: each a factory, as those in benchmarks/harness/runners.py."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from posewarp.benchmarks.harness.runners import SessionRunner
from posewarp.benchmarks.harness.worker import Bound
from posewarp.runtime.errors import BackendError

SLEEP_S = 0.02


class Stub:
    """Gives the right outputs, changed, after a sleep."""

    name = "stub 1.0 on cpu"

    def __init__(self, file, job, sleep_s=SLEEP_S, change=lambda value: value):
        time.sleep(0.3)  # opening is in no call's time
        self.session = SessionRunner(file, job, plugins=()) if file else None
        self.sleep_s, self.change = sleep_s, change

    def bind(self, feeds):
        outputs = {}
        if self.session:
            right = self.session.bind(feeds)
            right.call()
            outputs = {name: self.change(value) for name, value in right.outputs().items()}
        time.sleep(0.3)  # nor is the first run
        return Bound(lambda: time.sleep(self.sleep_s), lambda: outputs)


def sleeper(file, job):
    print("a library that talks on stdout")
    return Stub(file, job)


def slowed(file, job):
    return Stub(file, job, sleep_s=2 * SLEEP_S)


def wrong(file, job):
    return Stub(file, job, change=lambda value: value + 0.01)


def nan(file, job):
    return Stub(file, job, change=lambda value: value * np.float32(np.nan))


def misshapen(file, job):
    return Stub(file, job, change=lambda value: value[..., :-1])


def fails_to_open(file, job):
    raise BackendError("the stub does not open;\nopen another")


def out_of_memory(file, job):
    raise MemoryError("no room")


class Ends(Stub):
    """Ends in its n-th call."""

    def __init__(self, file, job, calls, number):
        super().__init__(file, job)
        self.left, self.number = calls, number

    def bind(self, feeds):
        def call():
            self.left -= 1
            if self.left <= 0:
                print("the stub's last words", file=sys.stderr, flush=True)
                os.kill(os.getpid(), self.number)

        return Bound(call, super().bind(feeds).outputs)


def crashes(file, job):
    return Ends(file, job, 5, signal.SIGSEGV)


def is_killed(file, job):
    return Ends(file, job, 1, signal.SIGKILL)


class Hangs(Stub):
    def bind(self, feeds):
        return Bound(lambda: time.sleep(1000), dict)


def hangs(file, job):
    return Hangs(file, job)
