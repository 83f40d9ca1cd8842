"""Misbehaviour on demand.

Owns the list of faults: which requests each of them hits, and what becomes of
the reply.  A fault works on any service; what is worded differently by each
of them (error codes, cursors) is asked of the service.
"""

import base64
import fnmatch
import html
import json
import time
import zlib
from urllib.parse import quote, quote_plus

from httpd import Reply

MARK = "@@fault@@"
MEGABYTE = 1024 * 1024
COMMON = {"kind", "path", "method", "query", "after", "every", "times"}


class Fault:
    """One entry of the list, with its counters."""

    def __init__(self, spec):
        kind = spec.get("kind")
        if kind not in KINDS:
            raise ValueError("unknown kind of fault %r, known are %s"
                             % (kind, ", ".join(sorted(KINDS))))
        self.act, allowed, times = KINDS[kind]
        unknown = sorted(set(spec) - COMMON - set(allowed.split()))
        if unknown:
            raise ValueError("fault %s has no option %s"
                             % (kind, ", ".join(unknown)))
        self.spec = spec
        self.kind = kind
        self.times = spec.get("times", times)
        self.seen = 0
        self.hits = 0
        self.until = None

    def matches(self, request):
        spec = self.spec
        if not fnmatch.fnmatchcase(request.path, spec.get("path", "*")):
            return False
        if spec.get("method", request.method) != request.method:
            return False
        return all(request.query.get(key) == str(value)
                   for key, value in spec.get("query", {}).items())

    def due(self, request, overlap):
        """Count the request and say whether this fault wants it.

        overlap: requests of the same path in the works, with this one.
        """
        if not self.matches(request):
            return False
        if self.until is not None:
            if time.monotonic() < self.until:
                return True
            self.until = None
        self.seen += 1
        past = self.seen - self.spec.get("after", 0)
        if past <= 0 or past % self.spec.get("every", 1):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        return self.kind != "concurrency" or overlap >= self.get("limit", 2)

    def get(self, key, default):
        return self.spec.get(key, default)

    def apply(self, request, service, normal):
        """normal() makes the reply that a healthy service would send."""
        self.hits += 1
        return self.act(self, request, service, normal)

    def as_dict(self):
        return dict(self.spec, seen=self.seen, hits=self.hits)


def do_errcode(fault, request, service, normal):
    return service.error(request, fault.get("code", -1),
                         fault.get("errmsg", None))


def do_busy(fault, request, service, normal):
    return service.error(request, "busy")


def do_overlap(fault, request, service, normal):
    return service.error(request, "overlap")


def do_address(fault, request, service, normal):
    return service.error(request, "address")


def do_throttle(fault, request, service, normal):
    if fault.until is None:
        fault.until = time.monotonic() + fault.get("seconds", 60)
    return service.error(request, "throttle")


def do_expire(fault, request, service, normal):
    service.expire_tokens()
    return normal()


def do_status(fault, request, service, normal):
    status = fault.get("status", 500)
    reply = Reply(status, b"<html><body>%d</body></html>" % status,
                  "text/html")
    if "retry_after" in fault.spec:
        reply.headers.append(("Retry-After", fault.spec["retry_after"]))
    return reply


def do_redirect(fault, request, service, normal):
    return Reply(fault.get("status", 302), b"", "text/html",
                 [("Location", fault.get("location", "/elsewhere"))])


def do_html(fault, request, service, normal):
    return Reply(200, b"<!DOCTYPE html><html><body>Please log in.</body>"
                 b"</html>", "text/html")


def do_empty(fault, request, service, normal):
    reply = normal()
    reply.body = b""
    return reply


def spellings(request):
    """What the request had in it, in all the ways in which services echo."""
    yield request.target
    values = list(request.query.values())
    if request.body:
        values.append(request.body.decode("utf-8", "replace"))
    for value in values:
        text = json.dumps(value)
        yield value
        yield quote(value, safe="")
        yield quote_plus(value)
        yield quote(quote(value, safe=""), safe="")
        yield text.replace("/", "\\/")
        yield json.dumps(text)
        yield json.dumps(json.dumps({"value": text}))
        yield quote(text, safe="")
        yield "".join("\\u%04x" % ord(c) for c in value)
        yield html.escape(value)
        for before in "", "i", "id:":
            coded = (before + value).encode()
            yield base64.b64encode(coded).decode()
            yield base64.urlsafe_b64encode(coded).decode()


def do_echo(fault, request, service, normal):
    """The request comes back: in an error, in HTML, or within a good page."""
    told = list(spellings(request))
    where = fault.get("where", "error")
    if where == "html":
        return Reply(500, ("<html><body>%s</body></html>"
                           % html.escape("\n".join(told))).encode(),
                     "text/html")
    if where == "page":
        reply = normal()
        document = json.loads(reply.body)
        document["debug"] = told
        document["debug_text"] = json.dumps({"request": told})
        key = service.records_key(document)
        if key is not None and document[key] and "field" in fault.spec:
            # not the target, which does not fit into a column of a row
            document[key][0][fault.spec["field"]] = " ".join(told[1:])
        reply.body = encode(document)
        return reply
    return service.error(request, fault.get("code", 99999), " ".join(told))


class RawReply(Reply):
    """Bytes that are sent as they are, be they HTTP or not."""

    def head(self, close):
        return b""


def do_raw(fault, request, service, normal):
    reply = RawReply(end=fault.get("end", "close"))
    reply.body = fault.get("text", "").encode("latin-1")
    reply.body += fault.get("more", "").encode("latin-1") * fault.get("times_more", 1)
    if "interval_ms" in fault.spec:
        size = max(1, fault.get("bytes", 1))
        body = reply.body
        reply.pieces = (body[i:i + size] for i in range(0, len(body), size))
        reply.pace = fault.get("interval_ms", 100) / 1000
    return reply


def do_drop(fault, request, service, normal):
    return Reply(silent=True, end="close")


def do_reset(fault, request, service, normal):
    return Reply(silent=True, end="reset")


def do_reset_body(fault, request, service, normal):
    reply = normal()
    half = len(reply.body) // 2
    reply.length = len(reply.body)
    # the pause lets the first half arrive
    reply.pieces = (reply.body[:half], b"")
    reply.pace = 0.05
    reply.end = "reset"
    return reply


def do_close(fault, request, service, normal):
    reply = normal()
    reply.end = "close"
    return reply


def do_truncate(fault, request, service, normal):
    reply = normal()
    reply.length = len(reply.body)
    reply.body = reply.body[:len(reply.body) // 2]
    reply.end = "close"
    return reply


def do_truncate_chunked(fault, request, service, normal):
    reply = normal()
    reply.pieces = [reply.body[:len(reply.body) // 2]]
    reply.chunked = True
    reply.end = "close"
    return reply


def do_invalid_json(fault, request, service, normal):
    reply = normal()
    reply.body = reply.body[:len(reply.body) // 2] + b"]]"
    return reply


def do_hang(fault, request, service, normal):
    reply = normal()
    reply.delay = None
    return reply


def do_slow(fault, request, service, normal):
    reply = normal()
    size = max(1, fault.get("bytes", 1))
    body = reply.body
    reply.length = len(body)
    reply.pieces = (body[i:i + size] for i in range(0, len(body), size))
    reply.pace = fault.get("interval_ms", 100) / 1000
    return reply


def padded(body, megabytes):
    """A JSON object with one more key as long as that, in pieces."""
    yield body.rstrip()[:-1] + b', "padding": "'
    for _ in range(megabytes):
        yield b"a" * MEGABYTE
    yield b'"}'


def zipped(pieces):
    """A gzip stream; what repeats is compressed only once."""
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    crc = length = 0
    known = {}
    for piece in pieces:
        if piece not in known:
            # A full flush makes a block that does not depend on the others.
            packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
            known[piece] = (packer.compress(piece) +
                            packer.flush(zlib.Z_FULL_FLUSH))
        crc = zlib.crc32(piece, crc)
        length += len(piece)
        yield known[piece]
    yield zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    yield crc.to_bytes(4, "little") + (length % 2 ** 32).to_bytes(4, "little")


def do_huge(fault, request, service, normal):
    reply = normal()
    megabytes = fault.get("mb", 64)
    body = reply.body
    reply.pieces = padded(body, megabytes)
    if fault.get("declare", False):
        reply.length = sum(map(len, padded(body, 0))) + megabytes * MEGABYTE
    else:
        reply.chunked = True
    return reply


def do_gzip_bomb(fault, request, service, normal):
    reply = normal()
    reply.pieces = zipped(padded(reply.body, fault.get("mb", 256)))
    reply.chunked = True
    reply.headers.append(("Content-Encoding", "gzip"))
    return reply


def do_many_headers(fault, request, service, normal):
    reply = normal()
    value = "v" * fault.get("size", 64)
    reply.headers.extend(("X-Filler-%d" % i, value)
                         for i in range(fault.get("count", 1000)))
    return reply


def encode(document):
    return json.dumps(document, ensure_ascii=False).encode()


def do_wrong_shape(fault, request, service, normal):
    reply = normal()
    document = json.loads(reply.body)
    key = service.records_key(document)
    shape = fault.get("shape", "object")
    if shape == "array":
        document = [document]
    elif key is not None:
        if shape == "missing":
            del document[key]
        else:
            document[key] = {"object": {"a": 1}, "string": "none",
                             "null": None, "scalars": [1, "two", None]}[shape]
    reply.body = encode(document)
    return reply


def bad_text(escape):
    """An action that puts bytes into one text of one record of the page."""
    def act(fault, request, service, normal):
        reply = normal()
        document = json.loads(reply.body)
        key = service.records_key(document)
        index = fault.get("index", 0)
        if key is None or index >= len(document[key]):
            return reply
        document[key][index][fault.get("field", "name")] = "bad" + MARK
        reply.body = encode(document).replace(MARK.encode(), escape)
        return reply
    return act


def bend(circle):
    def act(fault, request, service, normal):
        reply = normal()
        document = json.loads(reply.body)
        service.bend_cursor(request, document, fault.get("pages", circle))
        reply.body = encode(document)
        return reply
    return act


# kind: action, its own options, how often where "times" is not given
KINDS = {
    "errcode": (do_errcode, "code errmsg", None),
    "busy": (do_busy, "", None),
    "trusted_ip": (do_address, "", None),
    "throttle": (do_throttle, "seconds", 1),
    "concurrency": (do_overlap, "limit", None),
    "expire_token": (do_expire, "", 1),
    "status": (do_status, "status retry_after", None),
    "redirect": (do_redirect, "status location", None),
    "html": (do_html, "", None),
    "empty": (do_empty, "", None),
    "drop": (do_drop, "", None),
    "echo": (do_echo, "where code field", None),
    "raw": (do_raw, "text more times_more bytes interval_ms end", None),
    "reset": (do_reset, "", None),
    "reset_body": (do_reset_body, "", None),
    "close": (do_close, "", None),
    "truncate": (do_truncate, "", None),
    "truncate_chunked": (do_truncate_chunked, "", None),
    "invalid_json": (do_invalid_json, "", None),
    "wrong_shape": (do_wrong_shape, "shape", None),
    "hang": (do_hang, "", None),
    "slow": (do_slow, "bytes interval_ms", None),
    "huge": (do_huge, "mb declare", None),
    "gzip_bomb": (do_gzip_bomb, "mb", None),
    "many_headers": (do_many_headers, "count size", None),
    "bad_utf8": (bad_text(b"\xff\xc3\x28"), "index field", None),
    "nul_escape": (bad_text(b"\\u0000"), "index field", None),
    "lone_surrogate": (bad_text(b"\\ud800"), "index field", None),
    "cursor_repeat": (bend(None), "", None),
    "cursor_circle": (bend(5), "pages", None),
    "endless_cursor": (bend(0), "", None),
}
