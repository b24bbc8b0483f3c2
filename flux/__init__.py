"""flux: Kafka work that does not get lost."""
