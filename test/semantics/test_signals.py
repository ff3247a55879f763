"""What wakes a blocked recv() although no data came."""

import os
import signal
import time

from semantics_tools import behaviour, Call, Child, outcome, PAUSE, read, set_timeouts

MEGABYTE = 1 << 20


@behaviour(plain=b'x', redirected='EAGAIN', passed='EAGAIN')
def test_signal_with_restart(pair):
    """A signal whose handler has SA_RESTART, while recv() is blocked."""
    set_timeouts(pair.server, 0)
    pair.client.sendall(b'x')
    read(pair.server, 1)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    try:
        reader = Call(pair.server.recv, 1).blocked(pair.server)
        signal.pthread_kill(reader.ident, signal.SIGUSR1)
        reader.result(PAUSE)
        pair.client.sendall(b'x')
        return reader.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


@behaviour(plain="b'x'", redirected="'EAGAIN'", passed="'EAGAIN'")
def test_stop_and_continue(pair):
    """SIGSTOP and SIGCONT (a shell's job control, a debugger) while recv() is blocked."""
    set_timeouts(pair.server, 0)
    pair.client.sendall(b'x')
    read(pair.server, 1)
    child = Child(pair.server.recv, 1).blocked(pair.server)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    os.kill(child.pid, signal.SIGCONT)
    time.sleep(PAUSE)
    pair.client.sendall(b'x')
    return child.result()


@behaviour(plain=b'x', redirected='EAGAIN', passed='EAGAIN', may_pass=True, families=('ipv4',))
def test_room_to_send(pair):
    """Room for another thread's blocked send() on the same socket, while recv() is blocked."""
    sender = Call(pair.client.sendall, bytes(32 * MEGABYTE))
    reader = Call(pair.client.recv, 1).blocked(pair.client)
    sender.blocked(pair.client)
    read(pair.server, 32 * MEGABYTE)
    sender.result()
    reader.result(PAUSE)
    outcome(pair.server.send, b'x')
    return reader.result()
