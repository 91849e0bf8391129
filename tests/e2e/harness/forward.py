"""A port of this machine that leads to a Pod's, as `kubectl port-forward` has one."""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

#: What is read at once.
READ_BYTES_MAX = 64 * 1024


@contextmanager
def forwarded(ip: str, port: int) -> Iterator[int]:
    """The port of `localhost` that leads there within the block."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((ip, port)) as pod:
                back = Thread(target=_pass_on, args=(pod, self.request), daemon=True)
                back.start()
                _pass_on(self.request, pod)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        server.daemon_threads = True
        server.block_on_close = False
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while read := source.recv(READ_BYTES_MAX):
            sink.sendall(read)
        sink.shutdown(socket.SHUT_WR)
