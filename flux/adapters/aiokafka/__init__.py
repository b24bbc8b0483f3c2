"""Kafka by aiokafka: for workers that run in an event loop."""

from flux.adapters.aiokafka.adapter import AiokafkaAdapter, from_url

__all__ = ["AiokafkaAdapter", "from_url"]
