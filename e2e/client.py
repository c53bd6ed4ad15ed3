"""HTTP/1.1 clients that send exactly these bytes and keep what came."""

import socket

from processes import check


class Answer:
    """One HTTP/1 answer as it came."""

    def __init__(self, raw, head_only):
        head, self.complete, self.body = raw, False, b""
        if b"\r\n\r\n" in raw:
            head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if ":" in line]
        fields = dict(self.headers)
        if fields.get("transfer-encoding") == "chunked":
            self.complete = self.body.endswith(b"0\r\n\r\n")
        elif "content-length" in fields and not head_only:
            self.complete = len(self.body) >= int(fields["content-length"])
        else:
            self.complete = self.status != 0

    def comparable(self):
        """Status, header names in order with the values that do not depend on the moment, body, completeness."""
        moment = {"date", "x-envoy-upstream-service-time", "x-request-id"}
        headers = [(name, "*" if name in moment else value) for name, value in self.headers]
        return self.status, headers, self.body.decode("latin-1"), self.complete


def exchange(address, raw, head_only=False):
    """Sends raw bytes on a connection of their own and reads until the answer is complete or the connection ends."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        try:
            connection.sendall(raw)
        except OSError:
            pass
        got = b""
        while True:
            try:
                part = connection.recv(65536)
            except OSError:
                break
            if not part:
                break
            got += part
            answer = Answer(got, head_only)
            if b"\r\n\r\n" in got and answer.complete and answer.status >= 200:
                break
        return Answer(got, head_only)


def request(path, headers=(), method="GET", host="web", body=b""):
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"] + [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class KeepAlive:
    """One connection for many small GETs."""

    def __init__(self, address):
        self.address = address
        self.connect()

    def connect(self):
        host, port = self.address.rsplit(":", 1)
        self.connection = socket.create_connection((host, int(port)), timeout=10)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = self.connection.makefile("rb")

    def get(self, path, headers=(), host="web"):
        """Status and header fields of the answer."""
        return self.ask("GET", path, headers, host)

    def ask(self, method, path, headers=(), host="web", body=b""):
        self.connection.sendall(request(path, headers, method, host, body))
        status = self.stream.readline().decode("latin-1").split(" ")
        check(len(status) > 1, f"{path} {headers}: the connection ended")
        fields = {}
        while (line := self.stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            fields[name] = value.strip()
        self.stream.read(int(fields.get("content-length", "0")))
        if fields.get("connection") == "close":
            self.connection.close()
            self.connect()
        return int(status[1]), fields

    def origin(self, path, headers=(), host="web"):
        """Who answered."""
        status, fields = self.get(path, headers, host)
        check(status == 200, f"{host}{path} {headers}: {status} {fields}")
        return fields["x-origin"]
