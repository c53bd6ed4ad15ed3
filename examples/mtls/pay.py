"""pay: tells each caller who it is, as its sidecar says in `x-forwarded-client-cert`."""

import http.server


class Pay(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = (self.headers.get("x-forwarded-client-cert", "nobody") + "\n").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 9090), Pay).serve_forever()
