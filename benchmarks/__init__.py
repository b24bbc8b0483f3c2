"""Measures flux and its peers side by side: `make bench`. docs/performance.md says what, and has the figures."""
