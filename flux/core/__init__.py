"""The decisions of flux. Pure: no I/O, no threads, no clock, no randomness; standard library and attrs only."""
