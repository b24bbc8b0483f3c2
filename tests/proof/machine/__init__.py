"""A hostile machine: full disks, closed streams, few descriptors, little memory, signals.

Each case runs real worker processes on a real broker. Whatever the machine does, every record is done in the end, if
need be by a second worker on a sound machine; a worker that cannot go on says why and does not hang.

Clocks that jump are not here: under libfaketime librdkafka's waits never end. The simulation's clocks jump, and
tests/unit/consuming/test_clock_steps.py does it to both drivers.
"""
