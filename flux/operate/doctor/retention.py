"""Checks that topics keep records for as long as they wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.consuming.topic_setup import config_for
from flux.core.backoff import in_words
from flux.core.policy import DAY
from flux.core.stage import Role
from flux.operate.doctor.facts import Facts, Finding, TopicFacts
from flux.operate.formatting import many

DOWNTIME = DAY
"""Seconds to keep records beyond their longest wait: workers may be down meanwhile."""
MIN_DEAD_LETTERS = 30 * DAY
"""Seconds to keep dead letters at least: somebody has to look at them."""


def retention(facts: Facts) -> Iterator[Finding]:
    """Without the main topic, whose owner decides: see `expiry`."""
    for topic in facts.topics[1:]:
        if topic.config is None:
            continue
        kept = config_for(facts.policy, topic.stage, facts.message_bytes)["retention.ms"]
        for problem, settings in _problems(facts, topic, topic.config, kept):
            remedy = "set " + ", ".join(f"{name}={value}" for name, value in settings.items()) + " on it, or --fix"
            yield Finding("retention", topic.name, problem, remedy, settings=settings)


def _problems(
    facts: Facts, topic: TopicFacts, config: Mapping[str, str], kept: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Problems with the settings that fix each. `kept`: the retention.ms that flux gives new topics."""
    policy, size = config.get("cleanup.policy", "delete"), config.get("retention.bytes", "-1")
    if policy != "delete":
        problem = f"cleanup.policy={policy} deletes a record when a later one has the same key"
        yield problem, {"cleanup.policy": "delete", "retention.ms": kept}  # which had no effect before
    if size != "-1":
        yield f"retention.bytes={size} deletes records even if they still have to wait", {"retention.bytes": "-1"}
    too_short = _too_short(facts, topic)
    if too_short:
        yield too_short, {"retention.ms": kept}


def _too_short(facts: Facts, topic: TopicFacts) -> str:
    kept = topic.retention
    if kept is None:
        return ""
    deleted = f"records are deleted after {in_words(kept)}"
    if topic.stage.role is Role.DEAD:
        return f"{deleted}, even dead letters that nobody has looked at" if kept < MIN_DEAD_LETTERS else ""
    longest, most = facts.policy.waits.longest(topic.stage.number), facts.policy.max_delay
    if kept < longest:
        return f"{deleted}, and they wait up to {in_words(longest)} here: some are never retried"
    if kept < longest + DOWNTIME:
        return f"{deleted}, and they wait up to {in_words(longest)} here, longer when workers are down"
    if kept < most + DOWNTIME:
        return f"{deleted}, and Retry(after=) may wait up to {in_words(most)}, the max_delay"
    return ""


def expiry(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics:
        kept = topic.retention
        if not topic.old or kept is None:
            continue
        if topic.stage.role is Role.DEAD:
            what, remedy = (
                many(topic.old, "dead letter"),
                "replay or export them with flux dlq, or set retention.ms=-1 on it",
            )
        else:
            what, remedy = f"{many(topic.old, 'record')} not done yet", "start workers, or raise its retention.ms now"
        yield Finding("expiry", topic.name, f"about to be deleted: {what} (kept for {in_words(kept)})", remedy)
