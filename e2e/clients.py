"""Clients under load that move as Kubernetes' clients do: each holds its connection until it is told to leave, and goes
to an address of the current list then. Whatever is no clean 200 is a failure, and is kept with its reason."""

import socket
import threading
import time

import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from client import request
from processes import DEADLINE, check, wait_for


REFUSED_STREAM = 7


class Load:
    """Clients on threads of their own, half of them over HTTP/2; `targets` is the list that they see."""

    def __init__(self, targets, http1=3, http2=3):
        self.targets = list(targets)
        self.failures = []
        self.answers = [0] * (http1 + http2)
        self.moves = 0
        self.stopping = False
        clients = [Http1] * http1 + [Http2] * http2
        self.threads = [
            threading.Thread(target=self._run, args=(number, client), daemon=True)
            for number, client in enumerate(clients)
        ]

    def _run(self, number, client):
        turn = number
        while not self.stopping:
            # The list may be replaced meanwhile.
            targets = self.targets
            target = targets[turn % len(targets)]
            turn += 1
            try:
                with client(target) as connection:
                    while not self.stopping and connection.get():
                        self.answers[number] += 1
                        time.sleep(0.001)
            except OSError as error:
                self.failures.append(f"{client.__name__} at {target}: {error!r}")
                time.sleep(0.01)
            self.moves += 1

    def progress(self, answers=20):
        """Waits until every client has had so many more answers."""
        before = list(self.answers)
        wait_for(
            f"{answers} answers for each client; {self.failures[:3]}",
            lambda: all(now - then >= answers for now, then in zip(self.answers, before)),
        )

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join(timeout=DEADLINE)

    def verdict(self, what):
        """Ends the load, while there still is somebody to ask; how many requests were answered."""
        self.__exit__()
        check(not self.failures, f"{what}: {len(self.failures)} of {sum(self.answers)} failed: {self.failures[:5]}")
        return sum(self.answers)


class Connection:
    """A socket that is closed with its block."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Http1(Connection):
    def __init__(self, address):
        super().__init__(address)
        self.stream = self.socket.makefile("rb")

    def get(self):
        """One request; whether there may be another on this connection."""
        self.socket.sendall(request("/web/plain"))
        status = self.stream.readline().decode("latin-1").split(" ")
        if len(status) < 2:
            raise ConnectionError("closed without an answer")
        fields = {}
        while (line := self.stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            fields[name] = value.strip()
        body = self.stream.read(int(fields["content-length"]))
        if status[1] != "200" or len(body) != int(fields["content-length"]):
            raise ConnectionError(f"{status[1]} {body!r}")
        return fields.get("connection") != "close"


class Http2(Connection):
    """Frame by frame: the library h2 takes a GOAWAY for the end of everything, streams under way included."""

    def __init__(self, address):
        super().__init__(address)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.received, self.stream, self.leaving = b"", 1, False
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())

    def get(self):
        # What has come since the last answer is read before the next request is sent.
        self.socket.setblocking(False)
        try:
            while True:
                self._heed(self._frame())
        except BlockingIOError:
            self.socket.settimeout(DEADLINE)
        except ConnectionError:
            # After GOAWAY and between two requests it may close.
            if not self.leaving:
                raise
        if self.leaving:
            return False
        stream, self.stream = self.stream, self.stream + 2
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", "/web/plain")]
        asked = HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self.socket.sendall(asked.serialize())
        status, ended = None, False
        while not ended:
            frame = self._frame()
            self._heed(frame)
            if frame.stream_id != stream:
                continue
            if isinstance(frame, HeadersFrame):
                status = status or dict(self.decoder.decode(frame.data))[":status"]
            elif isinstance(frame, RstStreamFrame):
                if frame.error_code == REFUSED_STREAM:
                    # Not processed, by the protocol's own word: the client sends it elsewhere.
                    return False
                raise ConnectionError(f"reset with {frame.error_code}")
            ended = "END_STREAM" in frame.flags
        if status != "200":
            raise ConnectionError(f"{status}")
        return not self.leaving

    def _frame(self):
        self._fill(9)
        frame, length = Frame.parse_frame_header(memoryview(self.received[:9]))
        self._fill(9 + length)
        frame.parse_body(memoryview(self.received[9 : 9 + length]))
        self.received = self.received[9 + length :]
        return frame

    def _fill(self, size):
        while len(self.received) < size:
            if not (data := self.socket.recv(65536)):
                raise ConnectionError("closed")
            self.received += data

    def _heed(self, frame):
        """What the connection as a whole needs."""
        reply = None
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            reply = SettingsFrame(0, flags=["ACK"])
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            reply = PingFrame(0, frame.opaque_data, flags=["ACK"])
        elif isinstance(frame, GoAwayFrame):
            self.leaving = True
        elif isinstance(frame, DataFrame) and frame.flow_controlled_length:
            reply = WindowUpdateFrame(0, frame.flow_controlled_length)
        if reply:
            self.socket.sendall(reply.serialize())
