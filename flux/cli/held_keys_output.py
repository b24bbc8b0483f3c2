"""How keys that are held (`retry_order`) are shown in a task's status."""

from __future__ import annotations

from typing import Any

import attrs

from flux.operate.formatting import coming, key_of, lasting, many
from flux.operate.held_keys import HeldKey, HeldKeys


def held_key_line(held: HeldKey, now_ms: int) -> str:
    where = f"in stage {held.stage}, due {coming((held.due - now_ms) / 1000)}"
    if held.dead:
        where = f"a dead letter for {lasting((now_ms - held.due) / 1000)}: replay or reject it"
    return f"{key_of(held.key)} by {held.place}, {where}; {many(held.behind, 'record')} behind it"


def held_keys_object(held: HeldKeys) -> dict[str, Any]:
    """`due` in milliseconds since the epoch: of a dead letter, when it died. `first`: some of the keys."""
    first = [{**attrs.asdict(each), "key": key_of(each.key)} for each in held.first]
    return {"keys": held.keys, "dead": held.dead, "records": held.records, "first": first}
