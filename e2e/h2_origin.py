"""An HTTP/2 upstream that misbehaves as the path tells it; prior knowledge, no TLS."""

import socket
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from origins import Holder, Raw, Scripts


class H2Origin(Raw):
    """`seen` holds (path, headers) in order."""

    def __init__(self):
        self.seen, self.bytes = [], 0
        self.held = Holder()
        self.scripts = Scripts()
        super().__init__(lambda connection: H2Connection(self, connection).serve())


class H2Connection:
    """One connection; held streams are answered by threads of their own, so the protocol state has a lock."""

    def __init__(self, origin, connection):
        self.origin, self.connection = origin, connection
        self.lock = threading.Lock()
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.open = True
        self.requests = {}

    def serve(self):
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.do(self.state.initiate_connection)
            while self.open and (data := self.connection.recv(65536)):
                with self.lock:
                    events = self.state.receive_data(data)
                for event in events:
                    self.handle(event)
                self.do(lambda: None)
        except h2.exceptions.ProtocolError:
            pass

    def do(self, action, *args, **more):
        """Changes the state and writes what comes of it."""
        with self.lock:
            action(*args, **more)
            self.connection.sendall(self.state.data_to_send())

    def handle(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.requests[event.stream_id] = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            with self.lock:
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            headers = self.requests[event.stream_id]
            self.origin.seen.append((headers[":path"], headers))
            self.answer(event.stream_id, headers[":path"].partition("?")[0].split("/"))

    def answer(self, stream, path):
        """`/PREFIX/BEHAVIOUR/ARGUMENT`; anything unknown is a plain 200."""
        behaviour, argument = (path[2:4] + ["", ""])[:2]
        if behaviour == "hold":
            threading.Thread(target=self.hold, args=(stream, argument), daemon=True).start()
        elif behaviour == "script":
            self.answer(stream, self.origin.scripts.step(*path[3:5], self.requests[stream]))
        elif behaviour in ("refused-stream", "reset"):
            code = h2.errors.ErrorCodes.REFUSED_STREAM if behaviour == "refused-stream" else h2.errors.ErrorCodes.INTERNAL_ERROR
            self.do(self.state.reset_stream, stream, code)
        elif behaviour == "goaway":
            # The stream is above the last one that is dealt with.
            self.do(self.state.close_connection, last_stream_id=stream - 2 if stream > 1 else 0)
            self.open = False
        elif behaviour == "close":
            self.open = False
        elif behaviour == "grpc":
            headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", argument)]
            self.do(self.state.send_headers, stream, headers + self.name(), end_stream=True)
        elif behaviour == "half":
            threading.Thread(target=self.half, args=(stream, *path[3:5]), daemon=True).start()
        elif behaviour == "never":
            pass
        else:
            self.plain(stream, argument if behaviour == "status" else "200")

    def hold(self, stream, name):
        self.origin.held.wait(name)
        try:
            self.plain(stream, "200")
        except OSError:
            pass

    def half(self, stream, then, name):
        """Half a body, and once the test lets go the end of the stream or of the connection."""
        self.do(self.state.send_headers, stream, [(":status", "200"), ("content-length", "10")] + self.name())
        self.do(self.state.send_data, stream, b"half")
        self.origin.held.wait(name)
        if then == "reset":
            self.do(self.state.reset_stream, stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def plain(self, stream, status):
        body = b"ok" if status == "200" else b"origin says " + status.encode()
        headers = [(":status", status), ("content-length", str(len(body)))]
        try:
            self.do(self.state.send_headers, stream, headers + self.name())
            self.do(self.state.send_data, stream, body, end_stream=True)
        except h2.exceptions.StreamClosedError:
            # The proxy has seen enough.
            pass

    def name(self):
        return [("x-origin", self.origin.address)]
