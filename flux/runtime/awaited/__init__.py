"""What is awaited: the making of calls, what stands around them, and the loops that run procedures.

`flux.runtime.blocking` is generated from these files (`make generate`), so that nothing is decided twice.
"""
