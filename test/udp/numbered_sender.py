"""
Send numbered datagrams at a rate, and count the answers: a process of the bridge's tests.

`numbered_sender.py SOURCE ADDRESS PORT COUNT RATE SIZE SECONDS`: prints {'sent', 'refused',
'answers', 'twice', 'seconds'} as JSON, once every answer is there or none came for SECONDS.
Refused are those for which there was no way.
"""

import json
import socket
import sys
import threading
import time


def main():
    """Send, and count."""
    source, address, (port, count, rate, size) = *sys.argv[1:3], map(int, sys.argv[3:7])
    sock = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
    sock.bind((source, 0))
    sock.settimeout(float(sys.argv[7]))
    seen, twice, refused = bytearray(count), 0, 0

    def listen():
        nonlocal twice
        missing = count
        while missing:
            try:
                number = int.from_bytes(sock.recv(1 << 16)[:4], 'big')
            except TimeoutError:
                return
            twice += seen[number]
            missing -= not seen[number]
            seen[number] = 1
    listener = threading.Thread(target=listen)
    listener.start()
    rest = bytes(size - 4)
    begin = due = time.perf_counter()
    # In bursts of a millisecond: Python's clock and sleep are too coarse for single ones. Time
    # that was lost is not made good: the rate is never exceeded.
    burst = max(1, rate // 1000)
    for first in range(0, count, burst):
        while time.perf_counter() < due:
            time.sleep(0.0002)
        due = max(due, time.perf_counter() - 0.001) + burst / rate
        for number in range(first, min(first + burst, count)):
            try:
                sock.sendto(number.to_bytes(4, 'big') + rest, (address, port))
            except OSError:
                refused += 1
    seconds = time.perf_counter() - begin
    listener.join()
    print(json.dumps({'sent': count - refused, 'refused': refused, 'answers': sum(seen),
                      'twice': twice, 'seconds': seconds}))


if __name__ == '__main__':
    main()
