"""Okta as a service on the neutral directory.

Owns the calls under /api/v1 that a directory reader needs, the token endpoint
of the org, its filters, its Link headers and its limits.  A department is a
group; the built-in group Everyone comes on top.  Who has left is deprovisioned
and not listed unless asked for.  When something changed is noticed at the next
request and stamped with that time.
"""

import binascii
import hashlib
import json
import time
from email.utils import formatdate
from urllib.parse import parse_qsl, quote

from httpd import Reply
from rs256 import Refused, verify
from service import Service

API = "/api/v1/"
TOKEN_PATH = "/oauth2/v1/token"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPES = {"users": "okta.users.read", "groups": "okta.groups.read"}
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
EVERYONE = "00gEveryone000000000"
START = "2026-01-01T08:00:00.000Z"
STATUSES = {"active": "ACTIVE", "disabled": "SUSPENDED",
            "inactive": "STAGED", "left": "DEPROVISIONED"}
FILTERS = {"users": ("status", "lastUpdated", "id", "profile.login",
                     "profile.email", "profile.firstName",
                     "profile.lastName"),
           "groups": ("type", "lastUpdated", "lastMembershipUpdated", "id")}
ERRORS = {
    "E0000001": (400, "Api validation failed"),
    "E0000004": (401, "Authentication failed"),
    "E0000006": (403, "You do not have permission to perform the requested "
                      "action"),
    "E0000007": (404, "Not found: Resource not found"),
    "E0000009": (500, "Internal Server Error"),
    "E0000011": (401, "Invalid token provided"),
    "E0000031": (400, "Invalid search criteria."),
    "E0000047": (429, "API call exceeded rate limit due to too many "
                      "requests."),
}
NAMED = {"busy": "E0000009", "throttle": "E0000047", "overlap": "E0000047",
         "address": "E0000006"}


class Failure(Exception):
    """args: errorCode, optionally the text."""


class TokenFailure(Exception):
    """args: HTTP status, error, text."""


class Okta(Service):
    name = "okta"
    prefix = "/okta"
    defaults = {
        "api_tokens": {"00QCjAl4MlV-WPXM": {}},
        "client_id": "0oa1service0app00001",
        "key_id": "key-1",
        "public_key": None,
        "token_lifetime": 3600,
        "page_size": 200,
        "slow_limit": None,
        "link_style": "two",
        "link_base": None,
        "loop": False,
        "nulls": False,
        "clock_skew": 0,
        "reset_in": 1,
        "expired_cursors": False,
        "dpop": False,
        "owners": True,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.used = set()
        self.issued = 0
        self.failures = 0
        self.requests = 0
        self.turn = 0
        self.first_names = {}
        self.version = None
        self.stamps = {}

    def configure(self, changes):
        if changes.get("link_style", "two") not in ("two", "joined", "lower"):
            raise ValueError("link_style is two, joined or lower")
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, (0, ""))

    # Replies

    def now(self):
        return time.time() + self.settings["clock_skew"]

    def limits(self, limit, remaining, reset):
        return [("Date", formatdate(self.now(), usegmt=True)),
                ("X-Rate-Limit-Limit", str(limit)),
                ("X-Rate-Limit-Remaining", str(remaining)),
                ("X-Rate-Limit-Reset", str(int(reset)))]

    def handle(self, request, path):
        self.requests += 1
        self.follow()
        try:
            if path == TOKEN_PATH:
                return self.as_reply(self.log_in(request))
            if not path.startswith(API):
                raise Failure("E0000007")
            words = path[len(API):].split("/")
            access = self.check_token(request, words[0])
            return self.call(request, words, access)
        except TokenFailure as failure:
            status, error, text = failure.args
            return self.as_reply({"error": error, "error_description": text},
                                 status)
        except Failure as failure:
            return self.error(request, *failure.args)

    def as_reply(self, document, status=200, headers=()):
        limits = self.limits(600, 600 - self.requests % 600, self.now() + 60)
        return Reply(status, json.dumps(document, ensure_ascii=False).encode(),
                     headers=limits + list(headers))

    def error(self, request, what, message=None):
        code = NAMED.get(what, what)
        status, text = ERRORS.get(code, (400, "Failed"))
        self.failures += 1
        ident = "oae%017d" % self.failures
        reply = self.as_reply({
            "errorCode": code, "errorSummary": message or text,
            "errorLink": code, "errorId": ident, "errorCauses": []}, status)
        if code == "E0000047":
            # too many at once is told by a limit of 0
            limit = 0 if what == "overlap" else 600
            reply.headers = [("Content-Type", "application/json")] + \
                self.limits(limit, 0, self.now() + self.settings["reset_in"])
        return reply

    # Tokens

    def log_in(self, request):
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        if form.get("grant_type") != "client_credentials" or \
                form.get("client_assertion_type") != ASSERTION:
            raise TokenFailure(400, "invalid_request",
                               "The grant type or assertion type is wrong.")
        self.check_assertion(request, form.get("client_assertion", ""))
        scopes = form.get("scope", "").split()
        if not scopes or set(scopes) - set(SCOPES.values()):
            raise TokenFailure(400, "invalid_scope",
                               "One or more scopes are not granted.")
        if self.settings["dpop"]:
            raise TokenFailure(400, "invalid_dpop_proof",
                               "The DPoP proof JWT header is missing.")
        self.issued += 1
        token = "eyJ" + hashlib.sha512(b"okta %d %f" % (
            self.issued, time.time())).hexdigest()
        self.tokens[token] = (time.monotonic() +
                              self.settings["token_lifetime"],
                              " ".join(scopes))
        return {"token_type": "Bearer", "access_token": token,
                "expires_in": self.settings["token_lifetime"],
                "scope": " ".join(scopes)}

    def check_assertion(self, request, assertion):
        def refuse(text):
            raise TokenFailure(401, "invalid_client",
                               "The client_assertion is not valid: " + text)
        settings = self.settings
        if not settings["public_key"]:
            refuse("the client has no key")
        try:
            header, claims = verify(assertion, settings["public_key"])
        except Refused as wrong:
            refuse(wrong.args[0])
        now = self.now()
        host = request.headers.get("host", "")
        if header.get("kid") != settings["key_id"]:
            refuse("its kid is not known")
        if claims.get("iss") != settings["client_id"] or \
                claims.get("sub") != settings["client_id"]:
            refuse("iss or sub is not the client")
        if claims.get("aud") != "http://%s%s%s" % (host, self.prefix,
                                                   TOKEN_PATH):
            refuse("aud is not the token URL")
        if not isinstance(claims.get("exp"), int) or \
                not now < claims["exp"] <= now + 3600 + 5:
            refuse("exp has passed, or is more than an hour ahead")
        if not claims.get("jti") or claims["jti"] in self.used:
            refuse("jti is missing or was used before")
        self.used.add(claims["jti"])

    def check_token(self, request, kind):
        """The settings of the token: scope, the departments it may see."""
        scheme, _, token = request.headers.get("authorization",
                                               "").partition(" ")
        if scheme == "SSWS" and token in self.settings["api_tokens"]:
            return self.settings["api_tokens"][token]
        until, scopes = self.tokens.get(token, (0, ""))
        if scheme != "Bearer" or until <= time.monotonic():
            raise Failure("E0000011")
        if SCOPES.get(kind) not in scopes.split():
            raise Failure("E0000006")
        return {}

    # What the directory is to Okta

    def follow(self):
        """Stamp what has changed since the last request."""
        if self.version == self.directory.version:
            return
        first = self.version is None
        self.version = self.directory.version
        stamp = START if first else iso(self.now())
        before, self.stamps = self.stamps, {}
        self.people = {}
        for person in self.directory.people.values():
            ident = self.person_id(person)
            self.people[ident] = person
            self.note(before, ident, self.person_row(person), stamp)
        self.departments = {group_id(d.id): d for d
                            in self.directory.departments.values()}
        for ident, dept in self.departments.items():
            self.note(before, ident, group_row(dept), stamp)
            self.note(before, ident + " members",
                      sorted(self.person_id(p) for p in self.members_of(dept)),
                      stamp)

    def note(self, before, key, value, stamp):
        old = before.get(key)
        self.stamps[key] = old if old is not None and old[0] == value \
            else (value, stamp)

    def person_id(self, person):
        """Stays when the person is renamed, and comes back after a restart."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        return "00u" + letters("user:" + first[1])

    def person_row(self, person):
        main = self.directory.departments.get(person.main_department)
        given, _, family = person.name.partition(" ")
        profile = {
            "login": person.uid if "@" in person.uid
            else person.uid + "@corp.test",
            "email": person.biz_email or person.email,
            "firstName": given, "lastName": family or given,
            "displayName": person.name, "nickName": person.alias,
            "mobilePhone": person.mobile, "primaryPhone": person.telephone,
            "title": person.title, "department": main.name if main else None,
            "secondEmail": None, "userType": "Employee",
            "skills": [a["text"] for a in person.attributes if "text" in a],
        }
        profile = {key: value or None for key, value in profile.items()}
        if not self.settings["nulls"]:
            profile = {k: v for k, v in profile.items() if v is not None}
        return {"id": self.person_id(person),
                "status": STATUSES[person.status], "created": START,
                "lastLogin": None, "transitioningToStatus": None,
                "profile": profile,
                "credentials": {"provider": {"type": "OKTA", "name": "OKTA"}}}

    def members_of(self, dept):
        return [p for p in self.directory.members.get(dept.id, ())
                if p.status != "left"]

    def user(self, request, ident):
        row, stamp = self.stamps[ident]
        return dict(row, lastUpdated=stamp, _links={"self": {
            "href": self.link(request, "/api/v1/users/" + ident)}})

    def group(self, ident):
        row, stamp = self.stamps[ident]
        return dict(row, lastUpdated=stamp,
                    lastMembershipUpdated=self.stamps[ident + " members"][1])

    def everyone(self):
        stamps = [stamp for key, (_, stamp) in self.stamps.items()
                  if key.startswith("00u")]
        return {"id": EVERYONE, "created": START, "lastUpdated": START,
                "lastMembershipUpdated": max(stamps, default=START),
                "objectClass": ["okta:user_group"], "type": "BUILT_IN",
                "profile": {"name": "Everyone", "description": "All users"}}

    def visible(self, access):
        """Ids of departments that the token may see, None for all."""
        if access.get("scope") is None:
            return None
        return {group_id(d) for top in access["scope"]
                for d in self.directory.subtree(top)}

    # Calls

    def call(self, request, words, access):
        if request.method != "GET" or not 1 <= len(words) <= 3:
            raise Failure("E0000007")
        kind = words[0]
        visible = self.visible(access)
        if kind == "users" and len(words) == 1:
            rows = [self.user(request, ident)
                    for ident, person in self.people.items()
                    if visible is None or any(
                        group_id(m.department) in visible
                        for m in person.memberships)]
            return self.listing(request, self.wanted(request, kind, rows), 200)
        if kind == "groups" and len(words) == 1:
            rows = [self.everyone()] if visible is None else []
            rows += [self.group(ident) for ident in self.departments
                     if visible is None or ident in visible]
            return self.listing(request, self.wanted(request, kind, rows),
                                10000)
        if kind == "groups" and len(words) == 3:
            return self.related(request, words[1], words[2], visible)
        raise Failure("E0000007")

    def related(self, request, ident, what, visible):
        if ident == EVERYONE and what == "users":
            found = [p for p in self.people.values() if p.status != "left"]
        elif ident not in self.departments or \
                (visible is not None and ident not in visible):
            raise Failure("E0000007")
        elif what == "users":
            found = self.members_of(self.departments[ident])
        elif what == "owners" and self.settings["owners"]:
            people = self.directory.people
            return self.as_reply([
                {"id": self.person_id(people[uid]), "type": "USER",
                 "resolved": True, "displayName": people[uid].name}
                for uid in self.departments[ident].leaders if uid in people])
        else:
            raise Failure("E0000007")
        return self.listing(request, [
            self.user(request, self.person_id(p)) for p in found], 1000)

    def wanted(self, request, kind, rows):
        """The rows that filter or search asks for."""
        query = request.query
        text = query.get("filter", query.get("search"))
        hide = kind == "users" and "search" not in query
        if text is not None:
            tests = [[read_test(kind, test) for test in part.split(" and ")]
                     for part in text.split(" or ")]
            hide = hide and "status" not in {
                name for part in tests for name, _, _ in part}
            rows = [row for row in rows if any(
                all(holds(row, *test) for test in part) for part in tests)]
        if hide:
            rows = [row for row in rows if row["status"] != "DEPROVISIONED"]
        return rows

    def listing(self, request, rows, most):
        query = request.query
        text = query.get("limit", str(most))
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise Failure("E0000001", "limit must be 1 to %d" % most)
        slow = self.settings["slow_limit"]
        if slow is not None and int(text) > slow:
            raise Failure("E0000009")
        # page_size holds for callers that ask for more, too
        size = min(int(text), self.settings["page_size"])
        start = 0
        if "after" in query:
            if self.settings["expired_cursors"]:
                raise Failure("E0000031", "The cursor has expired.")
            start = read_after(query["after"])
        rest = start + size
        after = make_after(rest) if rest < len(rows) else None
        if self.settings["loop"]:
            after = make_after(start)
        return self.as_reply(rows[start:rest], headers=self.links(request,
                                                                  after))

    def links(self, request, after):
        """self and next, in one header or in two."""
        path = request.path[len(self.prefix):]
        kept = [(key, value) for key, value in request.query.items()
                if key != "after"]
        found = ['<%s>; rel="self"' % self.link(request, path, kept)]
        if after is not None:
            found.append('<%s>; rel="next"' % self.link(
                request, path, [("after", after)] + kept))
        if self.settings["link_style"] == "two":
            return [("Link", text) for text in found]
        if self.settings["link_style"] == "joined":
            return [("Link", ", ".join(found))]
        return [("link", ",".join(reversed(found)).replace('"next"', "next"))]

    def link(self, request, path, query=()):
        base = self.settings["link_base"]
        if base is None:
            base = "http://%s%s" % (request.headers.get("host", ""),
                                    self.prefix)
        # a comma may stand in an address as it is
        text = "&".join("%s=%s" % (key, quote(value, safe=","))
                        for key, value in query)
        return base + path + ("?" + text if text else "")

    def records_key(self, document):
        """A page is the bare list."""
        return None

    def bend_cursor(self, request, document, circle):
        """Pages are bare lists; the setting loop bends their headers."""


def group_id(number):
    return "00g" + letters("group:%d" % number)


def letters(text):
    """17 letters and digits, in both cases."""
    number = int(hashlib.md5(text.encode()).hexdigest(), 16)
    found = ""
    for _ in range(17):
        number, digit = divmod(number, 62)
        found += ALPHABET[digit]
    return found


def group_row(dept):
    row = {"id": group_id(dept.id), "created": START,
           "objectClass": ["okta:user_group"], "type": "OKTA_GROUP",
           "profile": {"name": dept.name, "description": dept.name_en or None}}
    if dept.id % 7 == 0:
        row["type"] = "APP_GROUP"
        row["objectClass"] = ["okta:windows_security_principal"]
        row["source"] = {"id": "0oaDirectory00000001"}
    return row


def iso(seconds):
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return "%s.%03dZ" % (whole, seconds % 1 * 1000)


def read_test(kind, text):
    """Attribute, operator and value of one comparison."""
    words = text.strip().split(" ", 2)
    if len(words) != 3 or words[0] not in FILTERS[kind]:
        raise Failure("E0000031")
    name, operator, value = words[0], words[1].lower(), words[2]
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        raise Failure("E0000031")
    value = value[1:-1]
    if name.startswith("last"):
        if operator not in ("eq", "gt", "ge", "lt", "le") or \
                len(value) != len(START) or value[-1] != "Z":
            raise Failure("E0000031")
    elif operator != "eq":
        raise Failure("E0000031")
    return name, operator, value


def holds(row, name, operator, value):
    actual = row
    for part in name.split("."):
        actual = actual.get(part, "") if isinstance(actual, dict) else ""
    return {"eq": actual == value, "gt": actual > value,
            "ge": actual >= value, "lt": actual < value,
            "le": actual <= value}[operator]


def make_after(start):
    plain = "%d," % start
    return "%s%08x" % (plain, binascii.crc32(plain.encode()))


def read_after(text):
    try:
        start = int(text.split(",")[0])
    except ValueError:
        raise Failure("E0000031")
    if make_after(start) != text:
        raise Failure("E0000031")
    return start
