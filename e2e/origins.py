"""Upstreams that misbehave as the path tells them, and say in `x-origin` who they are."""

import collections
import socket
import struct
import threading


class Origin:
    """An HTTP/1.1 server on a port of the system's choice. `seen` holds (request line, header lines) in order."""

    def __init__(self):
        self.seen, self.bytes = [], 0
        self.connections = set()
        self.held = Holder()
        self.scripts = Scripts()
        # Keeps the port while nobody listens on it.
        self.kept = bound(0)
        self.address = "127.0.0.1:%d" % self.kept.getsockname()[1]
        self.listen()

    def listen(self):
        self.listener = bound(self.kept.getsockname()[1])
        self.listener.listen(128)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def refuse(self):
        """Ends the connections and refuses new ones until `listen`."""
        # A thread in accept() keeps the socket alive beyond close().
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as stream:
            try:
                while self._one(connection, stream):
                    pass
            except OSError:
                pass
        self.connections.discard(connection)

    def _one(self, connection, stream):
        line = stream.readline().decode("latin-1").strip()
        if len(line.split(" ")) != 3:
            return False
        headers = []
        while (header := stream.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = header.partition(":")
            headers.append((name.lower(), value.strip()))
        self.bytes += len(line)
        lengths = dict(headers)
        if "content-length" in lengths:
            stream.read(int(lengths["content-length"]))
        elif "transfer-encoding" in lengths:
            while (size := int(stream.readline().split(b";")[0], 16)) > 0:
                stream.read(size + 2)
            stream.readline()
        self.seen.append((line, headers))
        return self._answer(connection, stream, line.split(" ")[1].partition("?")[0].split("/"), dict(headers))

    def _answer(self, connection, stream, path, headers):
        """`/PREFIX/BEHAVIOUR/ARGUMENT`; anything unknown is a plain 200."""
        behaviour = path[2] if len(path) > 2 else ""
        if behaviour == "status":
            self._send(connection, path[3], b"origin says " + path[3].encode())
        elif behaviour == "fail":
            # The origins of these ports do.
            mine = self.address.rsplit(":", 1)[1] in path[3].split(",")
            self._send(connection, "500" if mine else "200", b"ok")
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
        elif behaviour == "hold":
            self.held.wait(path[3])
            self._send(connection, "200", b"ok")
        elif behaviour == "script":
            return self._answer(connection, stream, self.scripts.step(*path[3:5], headers), headers)
        elif behaviour == "empty":
            self._send(connection, "200", b"")
        elif behaviour == "grpc":
            self._send(connection, "200", b"", f"content-type: application/grpc\r\ngrpc-status: {path[3]}\r\n".encode())
        elif behaviour == "limited":
            self._send(connection, path[3], b"slow down", b"x-envoy-ratelimited: true\r\n")
        elif behaviour == "chunk-cut":
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            return False
        elif behaviour == "half":
            # The rest never comes: the connection stays, ends, or is reset once the test lets go.
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            if path[3] == "stays":
                stream.read(1)
            else:
                self.held.wait(path[4])
            return self._answer(connection, stream, ["", "", path[3]], headers)
        elif behaviour == "no-content":
            connection.sendall(b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok")
        elif behaviour == "two-framings":
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        elif behaviour == "headers":
            self._send(connection, "200", b"ok", b"".join(b"x-%d: 1\r\n" % number for number in range(int(path[3]))))
        elif behaviour == "big-header":
            self._send(connection, "200", b"ok", b"x-big: " + b"a" * int(path[3]) + b"\r\n")
        elif behaviour in ("never", "stays"):
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
        self.refuse()
        self.kept.close()


class Holder:
    """Requests that wait, by name, until they are let go; those that are not are after 60 s."""

    def __init__(self):
        self.came, self.left, self.free = [], [], set()
        self.changed = threading.Condition()

    def wait(self, name):
        with self.changed:
            self.came.append(name)
            self.changed.wait_for(lambda: name in self.free, timeout=60)
            self.left.append(name)

    def waiting(self):
        with self.changed:
            return [name for name in self.came if name not in self.left]

    def let_go(self, name):
        with self.changed:
            self.free.add(name)
            self.changed.notify_all()

    def forget(self):
        with self.changed:
            self.came, self.left, self.free = [], [], set()


class Scripts:
    """What to do at each try of a request: `BEHAVIOUR.ARGUMENT,BEHAVIOUR.ARGUMENT,…/NAME`; the last step stays."""

    def __init__(self):
        self.tries = collections.defaultdict(list)
        self.lock = threading.Lock()

    def step(self, steps, name, headers):
        """The path of this try; what `x-envoy-attempt-count` said is kept."""
        steps = steps.split(",")
        with self.lock:
            number = len(self.tries[name])
            self.tries[name].append(headers.get("x-envoy-attempt-count"))
        return ["", "script", *steps[min(number, len(steps) - 1)].split(".")]


def bound(port):
    """A socket that may share its port with others, as long as at most one listens."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def refused():
    """An address nobody listens on, kept by the returned socket."""
    kept = socket.socket()
    kept.bind(("127.0.0.1", 0))
    return "127.0.0.1:%d" % kept.getsockname()[1], kept


class Raw:
    """A server that does `serve(connection)` with each connection."""

    def __init__(self, serve):
        self.serve = serve
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection:
            try:
                self.serve(connection)
            except OSError:
                pass

    def stop(self):
        # A thread in accept() keeps the socket alive beyond close().
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
