"""The stage `network`: workers and producers of both adapters on a network that is broken in one way after the other.

Clients reach each of three brokers through a proxy (`brokers.proxy`): network namespaces would need root and the
kernel's netem, which CI's machines do not have.
"""
