"""What may be set for aiokafka, what is converted, and what is never shown."""

from __future__ import annotations

import logging
import ssl
import sys
from typing import Any

import pytest

from flux.adapters.aiokafka import AiokafkaAdapter, config, from_url
from flux.adapters.aiokafka.log import ClientLog, quieten
from flux.adapters.secrets import Mask
from flux.config import adapter_from_url, reset
from flux.core.errors import ConfigurationError
from flux.core.ports import AsyncAdapter, ConsumerSettings, ProducerSettings
from flux.system import SYSTEM

SETTINGS = ConsumerSettings("t", "g")


def test_a_url_names_brokers_options_and_a_login() -> None:
    adapter: AsyncAdapter = from_url(
        "aiokafka://us%40er:p%2Fw@b:9093,a:9092?security_protocol=sasl_plaintext&session_timeout_ms=6000&check_crcs=no"
    )
    assert adapter.cluster == "kafka://a:9092,b:9093"
    assert adapter.shares_processes is True
    brokers, options = config.parsed_url("aiokafka://us%40er:p%2Fw@b:9093,a:9092?check_crcs=no&session_timeout_ms=6000")
    assert brokers == "b:9093,a:9092"
    assert options["sasl_plain_username"] == "us@er"
    assert options["sasl_plain_password"] == "p/w"
    converted = config.checked({"check_crcs": "no", "session_timeout_ms": "6000", "security_protocol": "plaintext"})
    assert converted == {"check_crcs": False, "session_timeout_ms": 6000, "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("aiokafka://", "broker"),
        ("aiokafka://host", "host:port"),
        ("aiokafka://host:port", "host:port"),
        ("aiokafka://h:1/path", "path"),
        ("aiokafka://h:1?no_such_option=1", "no_such_option"),
        ("aiokafka://h:1?session.timeout.ms=1", "session.timeout.ms"),
        ("aiokafka://h:1?session_timeout_ms=soon", "session_timeout_ms"),
        ("aiokafka://h:1?check_crcs=perhaps", "check_crcs"),
        ("aiokafka://h:1?client_id", "value"),
        ("aiokafka://h:1?client_id=a&client_id=b", "client_id"),
        ("aiokafka://h:1?ssl_context=x", "ssl_context"),
        ("aiokafka://h:1?ssl_cafile=x", "security_protocol"),
        ("aiokafka://h:1?security_protocol=TLS", "security_protocol"),
        ("aiokafka://h:1?security_protocol=SASL_SSL", "sasl_plain_username"),
        ("aiokafka://user@h:1", "password"),
        ("aiokafka://user:s3cret@h:1", "security_protocol"),
        ("aiokafka://user:s3cret@h:1?sasl_plain_password=x", "two logins"),
        ("aiokafka://h:1?group_id=x", "group_id"),
        ("aiokafka://h:1?acks=1", "acks"),
        ("aiokafka://h:1?auto_offset_reset=latest", "start_from"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_without_the_password(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        from_url(url)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_flux_relies_on_a_few_options_and_the_users_win_over_the_rest() -> None:
    options = config.consumer_options({"fetch_max_wait_ms": 7, "max_batch_size": 3}, SETTINGS)
    assert options["fetch_max_wait_ms"] == 7
    assert options["enable_auto_commit"] is False
    assert options["auto_offset_reset"] == "none"
    assert options["group_id"] == "g"
    assert "max_batch_size" not in options


def test_every_client_knows_new_partitions_within_a_minute() -> None:
    assert config.client_options({})["metadata_max_age_ms"] <= 60_000
    assert config.client_options({"metadata_max_age_ms": 1000})["metadata_max_age_ms"] == 1000


def test_records_of_open_and_aborted_transactions_are_not_read_unless_the_user_wants_them() -> None:
    for options, level in (({}, "read_committed"), ({"isolation_level": "read_uncommitted"}, "read_uncommitted")):
        assert config.consumer_options(options, SETTINGS)["isolation_level"] == level
        assert config.reader_options(options)["isolation_level"] == level


def test_a_drain_may_take_as_long_as_a_poll() -> None:
    assert config.consumer_options({}, SETTINGS)["rebalance_timeout_ms"] == 300_000
    assert config.consumer_options({"max_poll_interval_ms": 60_000}, SETTINGS)["rebalance_timeout_ms"] == 60_000


def test_a_retry_stage_holds_little() -> None:
    options = config.consumer_options({}, ConsumerSettings("t", "g", small_queue=True))
    assert options["fetch_max_bytes"] == 4 * 1024 * 1024


def test_an_empty_retry_stage_is_fetched_seldom_and_a_reader_finds_the_end_soon() -> None:
    retries = ConsumerSettings("t", "g", small_queue=True)
    waits = [config.consumer_options({}, settings)["fetch_max_wait_ms"] for settings in (SETTINGS, retries)]
    assert [*waits, config.reader_options({})["fetch_max_wait_ms"]] == [100, 500, 100]
    own = {"fetch_max_wait_ms": 7}
    assert config.consumer_options(own, retries)["fetch_max_wait_ms"] == 7
    assert config.reader_options(own)["fetch_max_wait_ms"] == 7


def test_a_static_member_gets_its_suffix() -> None:
    settings = ConsumerSettings("t", "g", instance_suffix="-3")
    assert config.consumer_options({"group_instance_id": "w"}, settings)["group_instance_id"] == "w-3"
    assert "group_instance_id" not in config.consumer_options({}, settings)


def test_a_batch_is_no_larger_than_the_settings_say() -> None:
    given = {"max_batch_size": 5000}
    assert config.producer_options(given, ProducerSettings())["max_batch_size"] == 5000
    assert config.producer_options(given, ProducerSettings(max_batch_bytes=900))["max_batch_size"] == 900


def test_secrets_are_not_shown() -> None:
    options: dict[str, Any] = {
        "security_protocol": "SASL_SSL",
        "sasl_plain_username": "user",
        "sasl_plain_password": "s3cret-password",
        "ssl_password": "s3cret",
    }
    adapter = AiokafkaAdapter("h:1", options)
    assert "s3cret" not in repr(adapter) + adapter.cluster
    assert "user" in repr(adapter)
    mask = Mask(options)
    assert mask("no s3cret-password, no s3cret") == "no ***, no ***"


def test_a_context_is_made_of_the_tls_options(tmp_path: Any) -> None:
    made = config.client_options({"security_protocol": "SSL"})["ssl_context"]
    assert isinstance(made, ssl.SSLContext)
    assert made.check_hostname
    loose = config.client_options({"security_protocol": "SSL", "ssl_check_hostname": False})["ssl_context"]
    assert not loose.check_hostname
    assert loose.verify_mode is ssl.CERT_REQUIRED
    given = ssl.create_default_context()
    assert config.client_options({"security_protocol": "SSL", "ssl_context": given})["ssl_context"] is given
    with pytest.raises(ConfigurationError, match="ssl_"):
        config.client_options({"security_protocol": "SSL", "ssl_cafile": str(tmp_path / "none.pem")})
    with pytest.raises(ConfigurationError, match="not both"):
        config.checked({"security_protocol": "SSL", "ssl_context": given, "ssl_cafile": "x"})


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("flux.adapters.aiokafka")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiokafka", None)
    reset()
    with pytest.raises(ConfigurationError, match=r'pip install "super-flux\[aiokafka\]"'):
        adapter_from_url("aiokafka://h:1")
    reset()


def test_aiokafka_says_nothing_by_itself_below_an_error(caplog: pytest.LogCaptureFixture) -> None:
    quieten()
    caplog.set_level(logging.DEBUG)
    theirs = logging.getLogger("aiokafka.conn")
    theirs.debug("Request: SaslAuthenticateRequest(payload=s3cret)")
    theirs.warning("rebalancing")
    assert caplog.text == ""
    for _ in range(3):
        theirs.error("Unable to reach %s", "a broker")
    ours = [record.getMessage() for record in caplog.records if record.name == "flux.kafka"]
    assert ours == ["aiokafka: Unable to reach a broker"]
    assert not logging.getLogger("aiokafka").propagate


def test_warnings_of_one_kind_are_counted_and_masked(caplog: pytest.LogCaptureFixture) -> None:
    log = ClientLog(lambda text: text.replace("s3cret", "***"), SYSTEM)
    for _ in range(3):
        log.warn("kind", "s3cret is wrong")
    log.warn("other", "fine")
    assert [record.getMessage() for record in caplog.records] == ["*** is wrong", "fine"]
