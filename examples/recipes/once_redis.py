"""Work that Redis knows is done is not repeated."""

import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

import redis

import flux

logger = logging.getLogger(__name__)

RELEASE = """
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
return 0
"""


class Once:
    """Middleware of a task. `name`: identifies the task, because two tasks may read one topic.

    The key of a record holds the token of the call that runs, for `lease` seconds, or "done", for `keep` seconds.
    `lease` must be longer than the longest call.
    """

    def __init__(self, name: str, client: "redis.Redis", lease: float = 300, keep: float = 7 * 86400) -> None:
        self._name = name
        self._client = client
        self._lease = int(lease * 1000)
        self._keep = int(keep * 1000)
        self._release = client.register_script(RELEASE)

    def __call__(self, message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        key, token = f"worked:{self._name}:{message.id}", secrets.token_hex(16)
        if not self._client.set(key, token, nx=True, px=self._lease):
            if self._client.get(key) == b"done":
                return
            # another call runs, or its process died: unknown until the lease ends
            left = self._client.pttl(key)
            raise flux.Retry("another call has the lease", after=max(int(str(left)), 0) / 1000 + 1)
        try:
            call_next(message)
        except BaseException:
            with contextlib.suppress(redis.RedisError):  # then the lease expires
                self._release(keys=[key], args=[token])
            raise
        try:
            self._client.set(key, b"done", px=self._keep)
        except redis.RedisError as error:
            # the work is done: a failure here would repeat it
            logger.warning("%s is done, but Redis could not store that: %s", message.id, error)
