"""A stand-in for an engine: the smallest HTTP server, and some that misbehave. Run as `stub_server.py MODE HOST PORT`.

Modes: `serve` answers every GET; `exit` ends at once with code 3; `deaf` never listens; `stubborn` serves and ignores SIGTERM; `forking`
serves and leaves a grandchild in a session of its own, whose parent has ended; `crash` serves until it is asked for `/crash`.
"""

import http.server
import os
import signal
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            sys.stderr.write("out of luck\n")
            os._exit(4)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ.get("STUB_ANSWER", "hello").encode())


def leave_grandchild():
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    os.wait()


def main(mode, host, port):
    sys.stderr.write(f"stub server: {mode}\n")
    if mode == "exit":
        sys.stderr.write("no room for the model\n")
        sys.exit(3)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "forking":
        leave_grandchild()
    while mode == "deaf":
        time.sleep(60)
    http.server.HTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
