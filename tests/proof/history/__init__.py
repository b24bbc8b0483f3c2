"""A checker of histories, as Jepsen's for Kafka: it reads what happened, imports nothing of flux, and finds faults.

`events` is the history, `checker` has the rules, `kafka` reads topics and commits, `sound` draws sound histories.
"""
