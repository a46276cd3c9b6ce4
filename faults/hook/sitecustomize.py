"""Python runs this first in a child of the suite: it counts renames below a folder, and at a chosen
one sends a signal to its own process. See faults.processes."""

import os
import sys


def _install(root: str) -> None:
    log = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    at, signal = int(os.environ.get("FAULTS_AT", 0)), int(os.environ.get("FAULTS_SIGNAL", 9))
    seen = 0

    def watch(event: str, args: tuple) -> None:
        nonlocal seen
        if event == "os.rename" and os.fspath(args[1]).startswith(root):
            seen += 1
            os.write(log, f"{args[1]}\n".encode())
            if seen == at:
                os.kill(os.getpid(), signal)

    sys.addaudithook(watch)  # os.rename and os.replace tell of themselves before they begin


if "FAULTS_ROOT" in os.environ:
    _install(os.environ.pop("FAULTS_ROOT"))  # not in the children of the child
