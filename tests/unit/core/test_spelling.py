"""A misspelt setting is found, and a task's own attributes are left alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import ConfigurationError
from flux.core.spelling import check_names, meant

METHODS = ("setup", "call", "close")
SETTINGS = [
    name
    for each in (flux.Task, flux.BatchTask)
    for name in vars(each)
    if not name.startswith("_") and name not in (*METHODS, "enqueue", "policy", "decoder")
]

_MISSPELT = """
retrys=retries retires=retries concurency=concurrency concurrecy=concurrency groupId=group_id serialiser=serializer
deserialiser=deserializer max_dealy=max_delay start_form=start_from in_place_retrys=in_place_retries ordring=ordering
timout=timeout time_out=timeout rate_limt=rate_limit offset_comit_interval=offset_commit_interval midleware=middleware
acknowlege_produced=acknowledge_produced exactlyOnce=exactly_once max_bacth=max_batch hoks=hooks set_up=setup
rate_limit_per_key=rate_limit_key
setUp=setup hoooks=hooks timeoout=timeout topicc=topic timeoutt=timeout valuess=values topi=topic concurrenc=concurrency
orderin=ordering rate_limi=rate_limit max_batc=max_batch adaptor=adapter concurrancy=concurrency toppic=topic
"""

_OWN = """
topics client clients session sessions logger log retry_policy policies hook hook_url url base_url api_key token db
database engine pool connection conn redis cache repository repo service config options name names version timeouts
time_limit timer timezone started start stop stopped retry retried retry_count retry_once retry_in retry_at max_retries
attempts wait_for wait_time waited waiting waits max_items max_size max_rows max_days max_day max_value max_batches
batch batch_size buffer rate rates rate_limiter rate_limits limiter limit limits concurrent concurrent_calls currency
order orders ordered order_id group groups group_by group_ids topic_name topic_id caller called calls callback calc
closed closer clone close_all setup_db setups serialize serialized deserialize deserialized deserialise encode decode
naming_scheme name_of adapted adapters entries retired series error_handler error_header errors headers hold holds
hold_producer producer producers produced produce acknowledged exact exactly middle rejected reject reject_reason pause
paused pauses give_up drain drained drain_time shutdown shutdown_hook stalled stalled_at metadata metadata_url in_place
enqueued enqueue_all queue settings model schema store state status counter count total handle handler process prefix
suffix region tenant account invoices mailer smtp template http timeout_seconds call_count _retrys _retries tonic toxic
tropic adopter adopters replies relies rewrites retirees retails hoops hoods valves value header hook want watt offering
takeout hold_produce concurrently
"""

NEXT_KEY = dict(pair for row in ("qwertyuiopo", "asdfghjklk", "zxcvbnmn") for pair in pairwise(row))


@pytest.mark.parametrize("pair", _MISSPELT.split())
def test_a_misspelt_name_is_found(pair: str) -> None:
    name, _, right = pair.partition("=")
    assert meant(name, SETTINGS, METHODS) == right


@pytest.mark.parametrize("name", _OWN.split() + SETTINGS + list(METHODS))
def test_a_name_of_its_own_is_allowed(name: str) -> None:
    assert meant(name, SETTINGS, METHODS) is None


@pytest.mark.parametrize("setting", [name for name in SETTINGS if "_" not in name and len(name) > 4])
def test_one_wrong_letter_within_a_word_is_found(setting: str) -> None:
    for at in range(2, len(setting) - 2):
        left_out = setting[:at] + setting[at + 1 :]
        swapped = setting[:at] + setting[at + 1] + setting[at] + setting[at + 2 :]
        replaced = setting[:at] + NEXT_KEY[setting[at]] + setting[at + 1 :]
        doubled = setting[:at] + setting[at] + setting[at:]
        for name in {left_out, swapped, replaced, doubled} - {setting}:
            assert meant(name, SETTINGS) == setting


def test_private_attributes_of_flux_are_no_settings() -> None:
    base = type("Base", (), {"_grace": 1})
    check_names(type("Own", (base,), {"grace": 2}), [base], ())


# ---- in tasks


class Charges(flux.Task):
    topic, group_id = "charges", "billing"
    client: Any = None
    topics = ("charges", "refunds")

    def call(self, message: flux.Message) -> None: ...


def test_a_misspelt_setting_is_refused_where_the_class_is_defined() -> None:
    complaint = (
        r"Refunds.retrys is not a setting: did you mean retries\? For an attribute of your own choose another name"
    )
    with pytest.raises(ConfigurationError, match=complaint):
        type("Refunds", (Charges,), {"retrys": 3})
    with pytest.raises(ConfigurationError, match=r"did you mean setup\?"):
        type("Refunds", (Charges,), {"setUp": lambda self: None})


def test_a_misspelt_setting_of_a_mixin_is_refused() -> None:
    mixin = type("Slow", (), {"concurency": 1})
    with pytest.raises(ConfigurationError, match=r"Refunds.concurency .* did you mean concurrency\?"):
        type("Refunds", (mixin, Charges), {})


def test_a_setting_of_batch_tasks_is_known_to_them_only() -> None:
    type("Refunds", (Charges,), {"max_bacth": 1})
    with pytest.raises(ConfigurationError, match=r"did you mean max_batch\?"):
        type("Stored", (flux.BatchTask,), {"max_bacth": 1})


@pytest.mark.parametrize("name", ["max_batch", "max_wait"])
def test_a_setting_of_batch_tasks_is_refused_on_a_plain_task(name: str) -> None:
    complaint = rf"Refunds.{name} is a setting of flux.BatchTask: make Refunds one, or choose another name"
    with pytest.raises(ConfigurationError, match=complaint):
        type("Refunds", (Charges,), {name: 10})
    task = Charges()
    setattr(task, name, 10)
    with pytest.raises(ConfigurationError, match=rf"Charges.{name} is a setting of flux.BatchTask"):
        flux.Worker(task, adapter=MemoryAdapter("misspelt"))
    with pytest.raises(ConfigurationError, match=rf"@flux.task: {name} is a setting of flux.BatchTask"):
        flux.task(topic="charges", group_id="billing", **{name: 10})  # type: ignore[arg-type]


def test_a_setting_misspelt_after_the_definition_is_refused_at_the_start() -> None:
    class Refunds(Charges):
        pass

    task = Refunds()
    task.client = object()
    flux.Worker(task, adapter=MemoryAdapter("misspelt"))
    task.timeuot = 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"Refunds.timeuot .* did you mean timeout\?"):
        flux.Worker(task, adapter=MemoryAdapter("misspelt"))
    Refunds.retrys = 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"Refunds.retrys .* did you mean retries\?"):
        flux.Worker(Refunds, adapter=MemoryAdapter("misspelt"))


def test_an_unknown_setting_of_a_function_is_refused_with_the_one_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"@flux.task: unknown setting max_retries: did you mean retries\?"):
        flux.task(topic="charges", group_id="billing", max_retries=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"unknown setting colour; see flux.Task"):
        flux.task(topic="charges", group_id="billing", colour="red")  # type: ignore[call-arg]
