"""What is awaited: the making of calls, what stands around them, and the loops that run procedures.

`flux.consuming.blocking` is generated from these files (`make generate`), so that nothing is decided twice.
"""
