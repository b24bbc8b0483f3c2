"""Kafka by confluent-kafka (librdkafka): the default adapter."""

from flux.adapters.confluent.adapter import ConfluentAdapter, from_url

__all__ = ["ConfluentAdapter", "from_url"]
