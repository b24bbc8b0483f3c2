"""Sends each packet that comes to a TUN device back later: what the kernel's netem does, where a kernel lacks it.

Run in a network namespace with the device's name, the seconds that each packet waits, and up to how many more; it ends
with its input.
"""

from __future__ import annotations

import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def main(name: str, seconds: float, jitter: float) -> None:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    print(flush=True)
    waiting: dict[bytes, collections.deque[tuple[float, bytes]]] = collections.defaultdict(collections.deque)
    while True:
        now = time.monotonic()
        for packets in waiting.values():
            while packets and packets[0][0] <= now:
                os.write(device, packets.popleft()[1])
        first = min((packets[0][0] for packets in waiting.values() if packets), default=now + 60)
        ready, _, _ = select.select([device, 0], [], [], max(0.0, first - now))
        if 0 in ready:
            return
        if device in ready:
            packet = os.read(device, 65536)
            source = waiting[packet[12:16]]  # of IPv4; each direction keeps its order
            due = time.monotonic() + seconds + random.uniform(0, jitter)
            source.append((max(due, source[-1][0]) if source else due, packet))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
