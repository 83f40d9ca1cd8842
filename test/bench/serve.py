#!/usr/bin/env python3
"""Serves the pages of one folder on a free port of the loopback address.

/users?page=3 is the file users.3.json.  Writes the port to its output, and
ends when its input does: when the program that started it is gone.
"""

import http.server
import os
import sys
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # headers and body in few segments
    wbufsize = -1

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        page = urllib.parse.parse_qs(url.query).get("page", ["0"])[0]
        name = "%s.%d.json" % (os.path.basename(url.path), int(page))
        with open(os.path.join(sys.argv[1], name), "rb") as file:
            body = file.read()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
