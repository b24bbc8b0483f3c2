"""A checker of histories, as Jepsen's for Kafka: it reads what happened, imports nothing of flux, and finds faults.

`events` is the history, `checker` finds, `kafka` reads topics and commits from the cluster.
"""
