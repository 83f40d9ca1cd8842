"""A small HTTP/1.1 server on one thread.

Owns the event loop, timers, connections and the bytes on the wire, good and
deliberately bad ones.  It knows nothing about directories: the application is
a callable that takes a Request and returns a Reply, and must not block.

One thread with timers answers many delayed requests at once without paying
for threads, and makes every run repeatable.
"""

import heapq
import itertools
import selectors
import socket
import ssl
import struct
import sys
import time
import traceback
from http import HTTPStatus
from urllib.parse import parse_qsl

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024
FAIR_SHARE = 1024 * 1024


class Timer:
    def __init__(self, call):
        self.call = call

    def cancel(self):
        self.call = None


class Loop:
    """Runs callbacks for sockets that are ready and timers that are due."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.timers = []
        self.ticket = itertools.count()
        self.running = True

    def later(self, delay, call):
        timer = Timer(call)
        heapq.heappush(self.timers,
                       (time.monotonic() + delay, next(self.ticket), timer))
        return timer

    def stop(self):
        self.running = False

    def run(self):
        while self.running:
            wait = None
            while self.timers and self.timers[0][2].call is None:
                heapq.heappop(self.timers)
            if self.timers:
                wait = max(0, self.timers[0][0] - time.monotonic())
            for key, mask in self.selector.select(wait):
                key.data(mask)
            now = time.monotonic()
            while self.timers and self.timers[0][0] <= now:
                call = heapq.heappop(self.timers)[2].call
                if call is not None:
                    call()


class Request:
    """One request; header names are in lower case."""

    __slots__ = ("method", "target", "path", "query_text", "headers", "body",
                 "peer", "connection", "_query")

    def __init__(self, method, target, headers, peer, connection):
        self.method = method
        self.target = target
        self.path, _, self.query_text = target.partition("?")
        self.headers = headers
        self.body = b""
        self.peer = peer
        self.connection = connection
        self._query = None

    @property
    def query(self):
        """Last value of each query key, empty values kept."""
        if self._query is None:
            self._query = dict(parse_qsl(self.query_text, True))
        return self._query


class Reply:
    """What to send, how slowly, and what becomes of the connection.

    pieces: an iterator of bytes, sent instead of body; with chunked they are
            framed as chunks, else sent as they are after the head.
    length: Content-Length to announce where it is not len(body).
    delay:  seconds before the first byte; None holds the reply until
            Connection.release().
    pace:   seconds between two pieces.
    end:    "keep", "close" or "reset" the connection afterwards.
    silent: send nothing at all.
    done:   called once, when the reply was sent or the client has gone.
    connection: set when the reply is handed to one.
    """

    def __init__(self, status=200, body=b"", content_type="application/json",
                 headers=(), **more):
        self.status = status
        self.body = body
        self.headers = list(headers)
        if content_type:
            self.headers.append(("Content-Type", content_type))
        self.pieces = None
        self.chunked = False
        self.length = None
        self.delay = 0
        self.pace = 0
        self.end = "keep"
        self.silent = False
        self.done = None
        self.connection = None
        for key, value in more.items():
            setattr(self, key, value)

    def head(self, close):
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = ["HTTP/1.1 %d %s" % (self.status, phrase)]
        lines.extend("%s: %s" % pair for pair in self.headers)
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.pieces is None or self.length is not None:
            length = len(self.body) if self.length is None else self.length
            lines.append("Content-Length: %d" % length)
        if close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


class BadRequest(Exception):
    """args: HTTP status and what is wrong."""


def parse_head(data, peer, connection):
    lines = data.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest(400, "malformed request line")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(400, "malformed header line")
        headers[name.strip().lower()] = value.strip()
    if words[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return Request(words[0], words[1], headers, peer, connection)


def body_length(request):
    if "transfer-encoding" in request.headers:
        raise BadRequest(411, "only requests with Content-Length are read")
    text = request.headers.get("content-length", "0")
    if not text.isdigit() or int(text) > MAX_BODY:
        raise BadRequest(413, "unusable Content-Length")
    return int(text)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Connection:
    """One client connection: reads, waits, writes, one request at a time."""

    def __init__(self, server, sock, peer, number):
        self.server = server
        self.loop = server.loop
        self.sock = sock
        self.peer = peer
        self.number = number
        self.shaking = isinstance(sock, ssl.SSLSocket)
        self.inbox = bytearray()
        self.outbox = memoryview(b"")
        self.request = None
        self.missing = 0
        self.reply = None
        self.sending = False
        self.timer = None
        self.mask = READ
        self.loop.selector.register(sock, READ, self.on_ready)

    def watch(self, mask):
        if mask != self.mask and self.sock is not None:
            self.mask = mask
            self.loop.selector.modify(self.sock, mask, self.on_ready)

    def on_ready(self, mask):
        if self.sock is None:
            return
        try:
            if self.shaking:
                self.shake()
                return
            if mask & READ:
                self.receive()
            if mask & WRITE and self.sock is not None and self.sending:
                self.send()
        except OSError:
            self.close()

    def shake(self):
        try:
            self.sock.do_handshake()
            self.shaking = False
            self.watch(READ)
        except ssl.SSLWantReadError:
            self.watch(READ)
        except ssl.SSLWantWriteError:
            self.watch(WRITE)

    def receive(self):
        while True:
            try:
                data = self.sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError,
                    ssl.SSLWantWriteError):
                break
            if not data or len(self.inbox) > MAX_HEAD + MAX_BODY:
                self.close()
                return
            self.inbox += data
            if not isinstance(self.sock, ssl.SSLSocket):
                break
        self.advance()

    def advance(self):
        """Take the next whole request out of the inbox, if there is one."""
        try:
            while self.reply is None and self.sock is not None:
                if self.request is None and not self.take_head():
                    return
                if len(self.inbox) < self.missing:
                    return
                self.request.body = bytes(self.inbox[:self.missing])
                del self.inbox[:self.missing]
                self.answer(self.call(self.request))
        except BadRequest as error:
            status, text = error.args
            self.request = None
            self.answer(Reply(status, text.encode(), "text/plain",
                              [("Connection", "close")], end="close"))

    def take_head(self):
        end = self.inbox.find(b"\r\n\r\n")
        if end < 0:
            if len(self.inbox) > MAX_HEAD:
                raise BadRequest(431, "header fields too large")
            return False
        request = parse_head(bytes(self.inbox[:end]), self.peer, self.number)
        del self.inbox[:end + 4]
        self.missing = body_length(request)
        self.request = request
        if "100-continue" in request.headers.get("expect", "").lower():
            self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def call(self, request):
        try:
            return self.server.app(request)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return Reply(500, b"the mock itself failed", "text/plain")

    def answer(self, reply):
        self.reply = reply
        reply.connection = self
        if reply.delay is None:
            return
        if reply.delay > 0:
            self.timer = self.loop.later(reply.delay, self.begin)
        else:
            self.begin()

    def release(self):
        """Send a reply that was held back."""
        if self.reply is not None and self.reply.delay is None:
            self.reply.delay = 0
            self.begin()

    def begin(self):
        reply = self.reply
        if reply.silent:
            self.finish()
            return
        head = reply.head(self.wants_close() and reply.end == "keep")
        self.sending = True
        if self.request is not None and self.request.method == "HEAD":
            reply.pieces = None
            self.outbox = memoryview(head)
        elif reply.pieces is None:
            self.outbox = memoryview(head + reply.body)
        else:
            reply.pieces = iter(reply.pieces)
            self.outbox = memoryview(head)
        try:
            self.send()
        except OSError:
            self.close()

    def wants_close(self):
        return (self.request is not None and
                self.request.headers.get("connection", "").lower() == "close")

    def send(self):
        budget = FAIR_SHARE
        while self.sending:
            while self.outbox:
                if budget <= 0:
                    self.watch(READ | WRITE)
                    return
                try:
                    sent = self.sock.send(self.outbox)
                except (BlockingIOError, ssl.SSLWantWriteError,
                        ssl.SSLWantReadError):
                    self.watch(READ | WRITE)
                    return
                budget -= sent
                self.outbox = self.outbox[sent:]
            piece = self.next_piece()
            if piece is None:
                self.sending = False
                self.watch(READ)
                self.finish()
            elif self.reply.pace:
                self.sending = False
                self.watch(READ)
                self.timer = self.loop.later(self.reply.pace,
                                             lambda: self.resume(piece))
            else:
                self.outbox = memoryview(piece)

    def resume(self, piece):
        self.outbox = memoryview(piece)
        self.sending = True
        try:
            self.send()
        except OSError:
            self.close()

    def next_piece(self):
        reply = self.reply
        if reply.pieces is None:
            return None
        piece = next(reply.pieces, None)
        if piece is not None:
            return chunk(piece) if reply.chunked else piece
        reply.pieces = None
        if reply.chunked and reply.end == "keep":
            return b"0\r\n\r\n"
        return None

    def finish(self):
        """The reply is out; go on with the connection or end it."""
        reply, close = self.reply, self.wants_close()
        self.reply = self.request = None
        if reply.done is not None:
            reply.done()
        if reply.end == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                 struct.pack("ii", 1, 0))
        if close or reply.end != "keep":
            self.close()
        elif self.inbox:
            self.timer = self.loop.later(0, self.advance)

    def close(self):
        if self.sock is None:
            return
        if self.timer is not None:
            self.timer.cancel()
        self.loop.selector.unregister(self.sock)
        self.sock.close()
        self.sock = None
        self.sending = False
        self.server.connections.discard(self)
        reply, self.reply = self.reply, None
        if reply is not None and reply.done is not None:
            reply.done()


class Server:
    """Listens on the loopback address only."""

    def __init__(self, loop, app, port=0, tls=None):
        self.loop = loop
        self.app = app
        self.tls = tls
        self.connections = set()
        self.accepted = 0
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(128)
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]
        loop.selector.register(self.sock, READ, self.on_connect)

    def on_connect(self, mask):
        while True:
            try:
                sock, address = self.sock.accept()
            except OSError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True,
                                            do_handshake_on_connect=False)
            self.accepted += 1
            self.connections.add(
                Connection(self, sock, address[0], self.accepted))

    def close(self):
        for connection in list(self.connections):
            connection.close()
        self.loop.selector.unregister(self.sock)
        self.sock.close()
