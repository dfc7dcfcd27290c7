#!/usr/bin/env python3
"""Stand-in services for the pages in docs/guide: on each port, answers with its port, the method and the target, then the fields that it
got. /status/401 is answered with that status, /slow after two seconds, /redirect with 302 to /login and a cookie.

    python3 examples/echo.py 9001 9002
"""
import http.server
import sys
import threading
import time


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one write: apart, the second would wait for the first one's acknowledgement.
    wbufsize = -1

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/slow"):
            time.sleep(2)
        status = int(self.path.rsplit("/", 1)[1]) if self.path.startswith("/status/") else 200
        told = f"{self.server.server_port} {self.command} {self.path}\n{self.headers}".encode()
        if self.path == "/redirect":
            status = 302
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/login")
            self.send_header("Set-Cookie", "id=1; Path=/")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(told)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        pass


servers = [http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Echo) for port in sys.argv[1:]]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("answering on", *sys.argv[1:], flush=True)
threading.Event().wait()
