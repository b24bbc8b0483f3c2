"""The stage `network`: workers and producers of both adapters on a network that is broken in one way after the other.

Clients are in a network namespace, behind a router that breaks their links to each of three brokers
(`brokers.router`); where there can be none, for instance without root, through proxies (`brokers.proxy`).
"""
