"""Upstreams that misbehave as the path tells them, and say in `x-origin` who they are."""

import socket
import struct
import threading


class Origin:
    """An HTTP/1.1 server on a port of the system's choice. `seen` holds (request line, header lines) in order."""

    def __init__(self):
        self.seen = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as stream:
            try:
                while self._one(connection, stream):
                    pass
            except OSError:
                pass

    def _one(self, connection, stream):
        line = stream.readline().decode("latin-1").strip()
        if not line:
            return False
        headers = []
        while (header := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = header.partition(":")
            headers.append((name.lower(), value.strip()))
        lengths = dict(headers)
        if "content-length" in lengths:
            stream.read(int(lengths["content-length"]))
        elif "transfer-encoding" in lengths:
            while (size := int(stream.readline().split(b";")[0], 16)) > 0:
                stream.read(size + 2)
            stream.readline()
        self.seen.append((line, headers))
        return self._answer(connection, stream, line.split(" ")[1].partition("?")[0].split("/"))

    def _answer(self, connection, stream, path):
        """`/PREFIX/BEHAVIOUR/ARGUMENT`; anything unknown is a plain 200."""
        behaviour = path[2] if len(path) > 2 else ""
        if behaviour == "status":
            self._send(connection, path[3], b"origin says " + path[3].encode())
        elif behaviour == "close":
            return False
        elif behaviour == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif behaviour == "garbage":
            connection.sendall(b"garbage\r\n\r\n")
            return False
        elif behaviour == "half-head":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-le")
            return False
        elif behaviour == "two-lengths":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc")
        elif behaviour == "cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            return False
        elif behaviour == "never":
            # Until the proxy gives up and hangs up.
            stream.read(1)
            return False
        elif behaviour == "hop":
            more = b"keep-alive: timeout=9\r\nx-kept: 1\r\nserver: mine\r\nx-envoy-upstream-service-time: 7\r\n"
            self._send(connection, "200", b"ok", more)
        else:
            self._send(connection, "200", b"ok")
        return True

    def _send(self, connection, status, body, more=b""):
        head = f"HTTP/1.1 {status} Any\r\ncontent-length: {len(body)}\r\nx-origin: {self.address}\r\n"
        connection.sendall(head.encode() + more + b"\r\n" + body)

    def stop(self):
        self.listener.close()


def refused():
    """An address nobody listens on, kept by the returned socket."""
    kept = socket.socket()
    kept.bind(("127.0.0.1", 0))
    return "127.0.0.1:%d" % kept.getsockname()[1], kept
