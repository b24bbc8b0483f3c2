"""The awaited form of executor, call wrappers, and the loops that perform procedures.

`flux.consuming.blocking` is generated from these files (`make generate`), so that both forms share their logic.
"""
