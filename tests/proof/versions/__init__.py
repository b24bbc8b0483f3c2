"""The stage `versions`: the core of the integration tests against several versions of Kafka, Python and the clients."""
