"""Servers that keep data: redis, PostgreSQL, memcached, rsync."""

from __future__ import annotations

from collections import Counter
import csv
import io
import os
import pwd
import re
import shutil
import socket

from software_cases.place import Case, digest, Outcome, tree_digest, Wrong


class Redis(Case):
    """Fifty connections of small requests, and values of a megabyte."""

    name = 'redis'

    def prepare(self):
        self._server = self.place.program('redis-server', 'redis-server')
        self._bench = self.place.program('redis-benchmark', 'redis-tools')

    def serve(self, port):
        self.place.start(self._server.path, '--port', port, '--bind', '127.0.0.1', '--save', '',
                         '--dir', self.place.folder, environment=self._server.environment,
                         port=port)

    def measure(self, port):
        count = 10_000 if self.place.quick else 100_000
        value = self.place.file('value', 1 << 20).read_bytes()
        client = 'redis-cli', '-h', '127.0.0.1', '-p', port
        self.place.run(*client, '-x', 'set', 'value', data=value)
        got = self.place.run(*client, '--raw', 'get', 'value')[:-1]  # it adds a newline
        if got != value:
            raise Wrong('read a value of redis', 'it is not the one that was written')
        said = self.place.run(self._bench.path, '-h', '127.0.0.1', '-p', port, '-n', count,
                              '-c', 50, '-d', 1024, '-t', 'set,get', '--csv').decode()
        rows = {row['test']: row for row in csv.DictReader(io.StringIO(said))}
        figures = {}
        for name in ('SET', 'GET'):
            figures[f'{name.lower()}_per_s'] = float(rows[name]['rps'])
            figures[f'{name.lower()}_p50_us'] = 1000 * float(rows[name]['p50_latency_ms'])
        return Outcome(figures, digest(got), least_bytes=2 * (1024 * count + len(value)))


class Postgres(Case):
    """Its own bench, whose sums have to agree; the server runs as an ordinary user."""

    name, long = 'pgbench', True

    def prepare(self):
        self._tools = {name: self.place.program(name, 'postgresql-15')
                       for name in ('initdb', 'postgres', 'pgbench', 'psql')}
        user = pwd.getpwnam('nobody')
        self._user = ('setpriv', f'--reuid={user.pw_uid}', f'--regid={user.pw_gid}',
                      '--clear-groups', '--')
        self._data = self.place.folder / 'postgres'
        self._data.mkdir(mode=0o700)
        shutil.chown(self._data, user.pw_uid, user.pw_gid)
        self.place.run(self._tools['initdb'].path, '-D', self._data, '-U', 'bench', '--no-sync',
                       '-A', 'trust', user=self._user)

    def serve(self, port):
        # One data folder serves one server: each port has a copy of it.
        own = self.place.folder / f'postgres.{port}'
        self.place.run('cp', '-a', self._data, own)
        self.place.start(
            *self._user, self._tools['postgres'].path, '-D', own, '-p', port, '-h', '127.0.0.1',
            '-k', '', '-c', 'fsync=off', '-c', 'shared_buffers=64MB', port=port,
            stop=lambda process: (process.send_signal(2), process.wait(20)))
        self.place.run(*self._client('psql', port), '-d', 'postgres', '-c',
                       'create database bench', user=self._user)
        self.place.run(*self._client('pgbench', port), '-i', '-q', '-s', 2, 'bench',
                       user=self._user)

    def measure(self, port):
        each = 200 if self.place.quick else 2000
        before = int(self._ask(port, 'select count(*) from pgbench_history'))
        said = self.place.run(*self._client('pgbench', port), '-n', '-c', 8, '-j', 2, '-t', each,
                              'bench', user=self._user).decode()
        sums = self._ask(port, 'select (select sum(abalance) from pgbench_accounts), (select '
                         'sum(tbalance) from pgbench_tellers), (select sum(bbalance) from '
                         'pgbench_branches), (select sum(delta) from pgbench_history)').split('|')
        rows = int(self._ask(port, 'select count(*) from pgbench_history')) - before
        if len(set(sums)) != 1 or rows != 8 * each:
            raise Wrong('check pgbench', f'sums {sums}, {rows} rows of {8 * each}')
        large = self._ask(port, 'select md5(string_agg(aid::text || chr(32) || bid, chr(44) '
                          'order by aid)), count(*) from pgbench_accounts')
        rate = re.search(r'tps = ([\d.]+)', said)
        latency = re.search(r'latency average = ([\d.]+) ms', said)
        return Outcome({'transactions_per_s': float(rate[1]),
                        'latency_us': 1000 * float(latency[1])}, (large, rows),
                       least_bytes=8 * each * 500)

    def _client(self, name, port):
        return self._tools[name].path, '-h', '127.0.0.1', '-p', port, '-U', 'bench'

    def _ask(self, port, query):
        return self.place.run(*self._client('psql', port), '-d', 'bench', '-At', '-c', query,
                              user=self._user).decode().strip()


class Memcached(Case):
    """Values of all sizes, written and read again by a client that blocks."""

    name, long = 'memcached', True

    def prepare(self):
        self._server = self.place.program('memcached', 'memcached')

    def serve(self, port):
        self.place.start(self._server.path, '-l', '127.0.0.1', '-p', port, '-u', 'nobody',
                         '-m', 64, environment=self._server.environment, port=port)

    def measure(self, port):
        sizes = [7 ** power for power in range(8)] * 20
        found, total = Counter(), 0
        with socket.create_connection(('127.0.0.1', port), 20) as sock, \
                sock.makefile('rb') as stream:
            for number, size in enumerate(sizes):
                value = os.urandom(min(size, 900_000))
                sock.sendall(b'set k%d 0 0 %d\r\n%s\r\nget k%d\r\n' % (
                    number, len(value), value, number))
                answers = [stream.readline(), stream.readline()]
                got = stream.read(len(value) + 2)
                answers.append(stream.readline())
                if got != value + b'\r\n':
                    raise Wrong('read a value of memcached', f'{len(value)} bytes differ')
                found.update((answers[0], answers[2]))
                total += 2 * len(value)
        return Outcome({}, sorted(found.items()), total, int(total * 1.2))


class Rsync(Case):
    """A daemon; a tree is fetched whole, changed, fetched again, and sent back."""

    name = 'rsync'

    def prepare(self):
        self._program = self.place.program('rsync', 'rsync')
        tree = self.place.folder / 'tree'
        for number in range(60):
            path = tree / f'folder{number % 7}' / f'file{number}'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(1 + (number * 7919) % 60_000))
        (tree / 'large').write_bytes(os.urandom((4 if self.place.quick else 64) << 20))
        (tree / 'link').symlink_to('large')
        (tree / 'folder0').chmod(0o700)
        self._tree = tree

    def serve(self, port):
        config = self.place.folder / f'rsyncd.{port}'
        back = self.place.folder / f'back.{port}'
        back.mkdir()
        config.write_text(f'use chroot = no\nuid = root\ngid = root\nlog file = /dev/null\n'
                          f'pid file = {config}.pid\n[tree]\npath = {self._tree}\n'
                          f'[back]\npath = {back}\nread only = no\nmunge symlinks = no\n')
        self.place.start(self._program.path, '--daemon', '--no-detach', '--address', '127.0.0.1',
                         '--port', port, '--config', config, port=port,
                         environment=self._program.environment)

    def measure(self, port):
        target = self.place.folder / f'copy.{port}'
        shutil.rmtree(target, ignore_errors=True)
        there = f'rsync://127.0.0.1:{port}'
        self._copy(f'{there}/tree/', target)
        with open(target / 'folder1' / 'file1', 'ab') as stream:
            stream.write(b'changed')
        self._copy(f'{there}/tree/', target)  # mends it
        self._copy(f'{target}/', f'{there}/back/')
        found = [tree_digest(path) for path in (
            self._tree, target, self.place.folder / f'back.{port}')]
        if len(set(found)) != 1:
            raise Wrong('compare the trees of rsync', 'they are not the same')
        size = sum(path.stat().st_size for path in self._tree.rglob('*')
                   if path.is_file() and not path.is_symlink())
        shutil.rmtree(self.place.folder / f'back.{port}')
        (self.place.folder / f'back.{port}').mkdir()
        return Outcome({}, found[0], 2 * size, int(2.1 * size) + (1 << 20))

    def _copy(self, source, target):
        self.place.run(self._program.path, '-a', '--checksum', '--delete', source, target,
                       environment=self._program.environment)


CASES = (Redis, Postgres, Memcached, Rsync)
