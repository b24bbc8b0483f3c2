"""The task of the worker processes. Every tenth record fails once; what is done is written to a file outside the
hostile disk. PROOF is JSON: `topic`, `group`, `done` (the file), `seconds` (of a call), `forks` (whether calls do)."""

from __future__ import annotations

import json
import os
import time

import flux

_GIVEN = json.loads(os.environ["PROOF"])
_DONE = os.open(_GIVEN["done"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Hostile(flux.Task):
    topic = _GIVEN["topic"]
    group_id = _GIVEN["group"]
    retries = 1
    wait = 0.5

    def call(self, message: flux.Message) -> None:
        number = int(message.value.split(b" ")[0])
        if number % 10 == 0 and message.stage == 0:
            raise ValueError("once")
        if _GIVEN["seconds"]:
            time.sleep(_GIVEN["seconds"])
        if _GIVEN["forks"]:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        os.write(_DONE, b"%d\n" % number)
