"""What can be seen of work from outside: metrics, probes, traces."""
