"""A soak: rebalances every few seconds, failures, outages and replays, then full speed, with both adapters.

A piece takes half an hour at scale 1. Totals add up in build/proof/soak.json over any number of pieces. A piece passes
if no record is lost, and memory, threads, descriptors and latency do not grow.
"""
