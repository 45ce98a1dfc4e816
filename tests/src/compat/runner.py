# SPDX-License-Identifier: GPL-2.0-only
"""Runs one of CPython's own test modules, unmodified, and tells of each test as it begins and ends.

usage: runner.py MODULE EVENTS SECONDS all|only|but NAMES

EVENTS gets one JSON object a line. A test that takes longer than SECONDS ends this program with a picture of all threads, so
that the caller can begin again behind it. NAMES is a file with the tests to run alone (only) or to leave out (but).
"""

import faulthandler
import json
import os
import sys
import time
import unittest

from test import support


class Events(unittest.TestResult):
    """Writes each result down at once."""

    def __init__(self, path, seconds):
        super().__init__()
        self.file = open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self.seconds = seconds
        self.pid = os.getpid()
        self.watch()

    def watch(self):
        faulthandler.dump_traceback_later(self.seconds, exit=True)

    def say(self, event, test, detail=""):
        # A child that a test forked, and that lost its way, has nothing to say.
        if os.getpid() == self.pid:
            test = getattr(test, "test_case", test)
            event = {"event": event, "test": test.id(), "at": round(time.monotonic(), 2), "detail": detail}
            self.file.write(json.dumps(event) + "\n")

    def startTest(self, test):
        super().startTest(test)
        self.say("start", test)
        self.watch()

    def stopTest(self, test):
        super().stopTest(test)
        self.watch()

    def addSuccess(self, test):
        self.say("pass", test)

    def addFailure(self, test, err):
        self.say("fail", test, self._exc_info_to_string(err, test))

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(test, err)

    def addSkip(self, test, reason):
        self.say("skip", test, reason)

    def addExpectedFailure(self, test, err):
        self.say("pass", test)

    def addUnexpectedSuccess(self, test):
        self.say("fail", test, "unexpected success")


def flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def chosen(tests, choice, names):
    """The tests to run; a class among the names stands for all of its tests."""
    if choice == "all":
        return tests
    names = {name.split("(")[-1].rstrip(")") for name in names}
    named = lambda test: test.id() in names or test.id().rpartition(".")[0] in names
    return [test for test in tests if named(test) == (choice == "only")]


def main():
    module, events, seconds, choice, names = sys.argv[1:]
    # As with python3 -m test -u network: some modules take every server for a network, also one on this machine. Tests that want the
    # world outside find no route to it, and skip. What takes very long, much memory or a display stays off.
    support.use_resources = ["network"]
    faulthandler.enable()
    tests = flat(unittest.defaultTestLoader.loadTestsFromName("test." + module))
    with open(names, encoding="utf-8") as file:
        tests = chosen(list(tests), choice, file.read().splitlines())
    result = Events(events, float(seconds))
    unittest.TestSuite(tests).run(result)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
