"""The transactional ids of the processes of one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flux.system.transactional_ids import TransactionalId


def test_each_process_has_one_of_its_own_and_the_next_takes_over_that_of_one_that_ended(tmp_path: Path) -> None:
    first, second = TransactionalId("flux-g", tmp_path), TransactionalId("flux-g", tmp_path)
    assert (first.id[-2:], second.id[-2:]) == ("-0", "-1")
    assert first.id[:-2] == second.id[:-2]

    first.release()

    assert TransactionalId("flux-g", tmp_path).id == first.id


def test_a_process_that_is_killed_leaves_its_id_to_the_next(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from flux.system.transactional_ids import TransactionalId;"
        "name = TransactionalId('flux-g', Path(sys.argv[1])); print(name.id, flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)

    assert TransactionalId("flux-g", tmp_path).id == killed.stdout.strip()


def test_groups_do_not_share_them(tmp_path: Path) -> None:
    assert TransactionalId("flux-g", tmp_path).id.endswith("-0")
    assert TransactionalId("flux-h", tmp_path).id.endswith("-0")


def test_where_no_file_can_be_written_it_is_random(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    first, second = TransactionalId("flux-g", absent), TransactionalId("flux-g", absent)

    assert first.id != second.id
    first.release()


def test_a_stranger_who_uses_it_is_avoided(tmp_path: Path) -> None:
    name = TransactionalId("flux-g", tmp_path)
    before = name.id

    assert name.another() not in (before, name.another())
    assert name.id.startswith("flux-g-")


@pytest.mark.parametrize("group", ["g" * 300, "ä" * 300])
def test_it_is_short_enough_for_a_broker(tmp_path: Path, group: str) -> None:
    assert len(TransactionalId(f"flux-{group}", tmp_path).id) < 256
