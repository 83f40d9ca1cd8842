"""A plain HTTP/JSON service, as somebody might have written one in house.

It has every way of paging and of logging in that manifests know, each under an
address of its own, so that a manifest can be tried against any of them:

    /rest/STYLE/people      STYLE is all, page, offset, cursor, link, next or v1
    /rest/STYLE/units       the same, of departments
    /rest/all/changes       who changed since a time, or since a number
    /rest/units/ID          one department; /children, /people below it
    /rest/token/KIND        KIND is get, json, form, basic, jwt
"""

import base64
import json
import time
from email.utils import formatdate
from urllib.parse import parse_qsl

from httpd import Reply
from rs256 import Refused, verify
from service import Service, seconds

START = 1767254400


class Failure(Exception):
    """args: HTTP status, code, optionally the text."""


class Rest(Service):
    name = "rest"
    prefix = "/rest"
    defaults = {
        "page_size": 50,
        "short_pages": False,
        "wrong_total": 0,
        "link_base": None,
        "login": None,
        "key": "k3y/+&=",
        "client_id": "us & them",
        "client_secret": "s3cr+t/%:=",
        "public_key": None,
        "token_lifetime": 3600,
        "throttle": {"status": 429, "header": "Retry-After", "value": "1"},
        "not_found_is_empty": False,
        "changes": "known",
        "clock_skew": 0,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.issued = 0
        self.version = None
        self.rows = {}
        self.stamps = {}
        self.serial = 0

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, 0)

    def now(self):
        return time.time() + self.settings["clock_skew"]

    def reply(self, document, status=200, headers=()):
        return Reply(status, json.dumps(document, ensure_ascii=False).encode(),
                     headers=[("Date", formatdate(self.now(), usegmt=True))] +
                     list(headers))

    def handle(self, request, path):
        self.follow()
        words = path.strip("/").split("/")
        try:
            if words[0] == "token" and len(words) == 2:
                return self.reply(self.log_in(request, words[1]))
            self.check_login(request)
            return self.call(request, words)
        except Failure as failure:
            return self.fail(*failure.args)

    def fail(self, status, code, text=""):
        return self.reply({"error": {"code": code, "message": text}}, status)

    def error(self, request, what, message=None):
        if what != "throttle":
            return self.fail(400, what, message or "it went wrong")
        how = self.settings["throttle"]
        headers = []
        if how.get("header"):
            value = how["value"]
            if value.startswith("+"):
                value = str(int(self.now()) + int(value))
            headers = [(how["header"], value)]
        body = {"error": {"code": "slow_down", "message": "not so fast"}}
        if "wait" in how:
            body["wait"] = how["wait"]
        return self.reply(body, how["status"], headers)

    # Logging in

    def log_in(self, request, kind):
        settings = self.settings
        body = request.body.decode("utf-8", "replace")
        if kind == "get":
            given = request.query
        elif kind == "json":
            given = json.loads(body)
        else:
            given = dict(parse_qsl(body))
        if kind == "basic":
            given.update(self.basic(request, form_encoded=True))
        if kind == "jwt":
            self.check_assertion(request, given.get("assertion", ""))
        elif given.get("id") != settings["client_id"] or \
                given.get("secret") != settings["client_secret"]:
            raise Failure(401, "invalid_client", "no such client or secret")
        self.issued += 1
        token = "t0ken/+%d=%d" % (self.issued, time.time_ns())
        self.tokens[token] = time.monotonic() + settings["token_lifetime"]
        return {"data": {"token": token,
                         "lifetime": settings["token_lifetime"]}}

    def basic(self, request, form_encoded=False):
        text = request.headers.get("authorization", "")
        if not text.startswith("Basic "):
            return {}
        text = base64.b64decode(text[6:]).decode()
        if form_encoded:
            name, _, secret = text.partition(":")
            pairs = dict(parse_qsl("id=%s&secret=%s" % (name, secret)))
            return pairs
        name, _, secret = text.partition(":")
        return {"id": name, "secret": secret}

    def check_assertion(self, request, assertion):
        try:
            header, claims = verify(assertion, self.settings["public_key"])
        except Refused as wrong:
            raise Failure(401, "invalid_client", wrong.args[0])
        if claims.get("iss") != self.settings["client_id"] or \
                claims.get("scope") != "people units" or \
                not self.now() < claims.get("exp", 0) <= self.now() + 3605 or \
                not claims.get("jti") or header.get("kid") not in (None, "k1"):
            raise Failure(401, "invalid_client", "the claims are wrong")

    def check_login(self, request):
        """login: where the key or token must be; null lets everybody in."""
        settings = self.settings
        headers = request.headers
        where = settings["login"]
        if where is None:
            return
        if where in ("key_query", "key_header"):
            found = request.query.get("key") if where == "key_query" \
                else headers.get("x-api-key")
            good = found == settings["key"]
        elif where == "basic":
            good = self.basic(request) == {"id": settings["client_id"],
                                           "secret": settings["client_secret"]}
        else:
            if where == "query":
                token = request.query.get("token")
            elif where == "body":
                token = json.loads(request.body or b"{}").get("token")
            else:
                token = headers.get("authorization", "")[len("Bearer "):]
            good = self.tokens.get(token, 0) > time.monotonic()
        if not good:
            raise Failure(401, "log_in", "log in first")

    # What the directory is to this service

    def follow(self):
        """Number and stamp what has changed since the last request."""
        if self.version == self.directory.version:
            return
        first = self.version is None
        self.version = self.directory.version
        stamp = START if first else self.now()
        rows = {}
        for person in self.directory.people.values():
            rows["p", person.uid] = self.person(person)
        for unit in self.directory.departments.values():
            rows["u", unit.id] = {
                "id": unit.id, "name": unit.name, "above": unit.parent,
                "place": unit.order, "heads": unit.leaders}
        for key in sorted(set(rows) | set(self.rows), key=str):
            if rows.get(key) != self.rows.get(key):
                self.serial += 1
                self.stamps[key] = (stamp, self.serial)
        self.rows = rows

    def person(self, person):
        return {
            "id": person.uid, "name": person.name, "mail": person.email,
            "tel": "tel:" + (person.mobile or "") if person.mobile else None,
            "state": person.status, "job": person.title,
            "hired": 1577836800000, "units":
            [m.department for m in person.memberships],
            "head_of": [1 if m.leader else 0 for m in person.memberships],
            "main": person.main_department,
            "skills": [a["text"] for a in person.attributes if "text" in a],
            "extra": json.dumps({"alias": person.alias}) if person.alias
            else ""}

    # Calls

    def call(self, request, words):
        if words[0] == "units" and len(words) in (2, 3):
            return self.unit(request, words)
        if words == ["all", "changes"]:
            return self.changes(request)
        if len(words) != 2 or words[1] not in ("people", "units"):
            raise Failure(404, "no_such_address")
        kind = "p" if words[1] == "people" else "u"
        rows = [row for key, row in self.rows.items() if key[0] == kind]
        return self.page(request, words, rows)

    def unit(self, request, words):
        ident = int(words[1])
        if ("u", ident) not in self.rows:
            raise Failure(404, "no_such_unit")
        if len(words) == 2:
            return self.reply({"unit": self.rows["u", ident]})
        if words[2] == "children":
            items = [self.rows["u", child] for child
                     in self.directory.children.get(ident, ())]
        else:
            items = [self.rows["p", person.uid] for person
                     in self.directory.members.get(ident, ())]
        if not items and self.settings["not_found_is_empty"]:
            raise Failure(404, "nobody")
        return self.reply({"items": items})

    def changes(self, request):
        """since: a time, ISO or milliseconds; after: a number."""
        if self.settings["changes"] == "gone":
            raise Failure(410, "too_long_ago")
        since = request.query.get("since", "0")
        if "T" in since:
            since = seconds(since)
        else:
            since = float(since) / 1000
        after = int(request.query.get("after", 0))
        items = []
        for key, (stamp, serial) in self.stamps.items():
            if key[0] == "p" and stamp >= since and serial > after:
                row = self.rows.get(key)
                items.append(dict(row or {"id": key[1], "gone": True},
                                  number=serial))
        return self.reply({"items": sorted(items, key=lambda i: i["number"]),
                           "last": self.serial})

    def page(self, request, words, rows):
        query = request.query
        size = self.settings["page_size"]
        style = words[0]
        if style == "all":
            return self.reply({"items": rows})
        if style == "page":
            number = int(query.get("page", 1)) - 1
            size = int(query.get("size", size))
            start = number * size
        elif style == "offset":
            start = int(query.get("start", 0))
            size = int(query.get("size", size))
        elif style == "cursor":
            cursor = query.get("cursor") or \
                json.loads(request.body or b"{}").get("cursor")
            start = self.decode(cursor) if cursor else 0
        else:
            start = int(query.get("from", 0))
        end = start + size
        if self.settings["short_pages"] and start % 2 == 0:
            end -= 1
        document = {"items": rows[start:end],
                    "total": len(rows) + self.settings["wrong_total"]}
        return self.with_next(request, words, document,
                              end if end < len(rows) else None)

    def with_next(self, request, words, document, start):
        style = words[0]
        headers = []
        path = "/rest/%s/%s?from=%s" % (style, words[1], start)
        base = self.settings["link_base"] or \
            "http://" + request.headers.get("host", "")
        if style == "cursor":
            document["more"] = start is not None
            # some repeat an old cursor at the end; "more" decides
            document["cursor"] = self.encode(start or 0)
        elif style in ("next", "v1"):
            document["links"] = {"next": start and base + path}
        elif style == "link" and start is not None:
            headers = [("Link", '<%s%s>; rel="next", <%s/rest>; rel="self"'
                        % (base, path, base))]
        return self.reply(document, 200, headers)

    def encode(self, start):
        return base64.b64encode(b"\xff\xfe%d" % start).decode() + "&+"

    def decode(self, cursor):
        try:
            return int(base64.b64decode(cursor[:-2])[2:])
        except ValueError:
            raise Failure(400, "bad_cursor")

    def bend_cursor(self, request, document, circle):
        start = int(request.query.get("from", 0))
        if "links" in document:
            document["links"]["next"] = "%s?from=%d" % (request.path, start)

    def records_key(self, document):
        return "items" if "items" in document else None
