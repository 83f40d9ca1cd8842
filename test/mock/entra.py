"""Microsoft Entra ID as a service on the neutral directory.

Owns the token endpoint under /login and the part of Graph under /graph/v1.0
that a directory reader needs: lists, delta queries with their tokens, members
and owners of groups.  A department is a group, its child departments are
members of it.  Who has left is a deleted user that can still be restored;
who was removed from the directory is gone for good.
"""

import gzip
import hashlib
import json
import time
import uuid
from email.utils import formatdate
from urllib.parse import parse_qsl, quote

from httpd import Reply
from service import Service

SPACE = uuid.UUID("6d0f2f1e-6f0c-4b6a-9a3e-3f2b7c1d9e50")
GRAPH = "/graph/v1.0"
MAX_TOP = 999
USER_TYPE = "#microsoft.graph.user"
GROUP_TYPE = "#microsoft.graph.group"
DEVICE_TYPE = "#microsoft.graph.device"
DEFAULT_USER = ("businessPhones", "displayName", "givenName", "id", "jobTitle",
                "mail", "mobilePhone", "officeLocation", "preferredLanguage",
                "surname", "userPrincipalName")
UNLISTED = {"aboutMe", "skills", "mySite", "interests"}
PERMISSIONS = {"users": ("User.Read.All", "Directory.Read.All"),
               "groups": ("Group.Read.All", "GroupMember.Read.All",
                          "Directory.Read.All")}
STATUS = {
    "TooManyRequests": 429,
    "serviceNotAvailable": 503,
    "InvalidAuthenticationToken": 401,
    "Authorization_RequestDenied": 403,
    "Request_BadRequest": 400,
    "Request_ResourceNotFound": 404,
    "SyncStateNotFound": 410,
    "Directory_ExpiredPageToken": 400,
    "NotImplemented": 501,
}
NAMED = {"busy": "serviceNotAvailable", "throttle": "TooManyRequests",
         "overlap": "TooManyRequests", "address": "Authorization_RequestDenied"}
MESSAGES = {
    "TooManyRequests": "Too many requests",
    "InvalidAuthenticationToken":
        "Access token has expired or is not yet valid.",
    "Authorization_RequestDenied":
        "Insufficient privileges to complete the operation.",
    "SyncStateNotFound": "The sync state generation is not found; "
        "generation=149;[highest=157][current=157].",
}


class Failure(Exception):
    """args: error.code of Graph, optionally the text."""


class TokenFailure(Exception):
    """args: HTTP status, error, number, text."""


class Entra(Service):
    name = "entra"
    prefix = "/entra"
    defaults = {
        "tenant": "3a1e6c1c-5a0b-4a51-9f0e-2b8e6a7d1f00",
        "client_id": "11111111-2222-3333-4444-555555555555",
        "client_secret": "s3~cr.et-_&=+%x",
        "token_lifetime": 3599,
        "permissions": ["User.Read.All", "Group.Read.All"],
        "page_size": 100,
        "members_per_page": 3,
        "empty_pages": False,
        "duplicates": False,
        "delta_tokens": "valid",
        "link_base": None,
        "hidden_groups": [],
        "retry_after": "1",
        "inner_error": "innerError",
        "gzip": False,
        "chunked": False,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.issued = 0
        self.failures = 0
        self.first_names = {}
        self.once_set = {}
        self.rounds = []
        self.deltas = []
        self.turn = 0

    def configure(self, changes):
        if changes.get("delta_tokens", "valid") not in ("valid", "gone",
                                                        "expired"):
            raise ValueError("delta_tokens is valid, gone or expired")
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, 0)

    # Replies

    def handle(self, request, path):
        try:
            if path.startswith("/login/"):
                return self.finish(self.log_in(request, path))
            self.check_token(request)
            if not path.startswith(GRAPH + "/"):
                raise Failure("Request_ResourceNotFound")
            return self.finish(self.graph(
                request, path[len(GRAPH) + 1:].split("/")))
        except TokenFailure as failure:
            return self.token_error(*failure.args)
        except Failure as failure:
            return self.error(request, *failure.args)

    def finish(self, document):
        """Texts are sent with escapes, as Graph does."""
        body = json.dumps(document).encode()
        reply = Reply(200, body, "application/json;odata.metadata=minimal;"
                      "odata.streaming=true;charset=utf-8", [date_header()])
        if self.settings["gzip"]:
            reply.body = gzip.compress(body)
            reply.headers.append(("Content-Encoding", "gzip"))
        if self.settings["chunked"]:
            reply.pieces = [reply.body]
            reply.chunked = True
        return reply

    def error(self, request, what, message=None):
        code = NAMED.get(what, what)
        self.failures += 1
        ident = str(uuid.uuid5(SPACE, "failure:%d" % self.failures))
        inner = {"date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
                 "request-id": ident, "client-request-id": ident}
        body = {"error": {"code": code,
                          "message": message or MESSAGES.get(code, "Failed."),
                          self.settings["inner_error"]: inner}}
        reply = Reply(STATUS.get(code, 400), json.dumps(body).encode(),
                      headers=[date_header(), ("request-id", ident)])
        if code == "TooManyRequests" and self.settings["retry_after"]:
            reply.headers.append(("Retry-After", self.settings["retry_after"]))
        if code == "SyncStateNotFound":
            reply.headers.append(("Location", self.link(
                request, request.path[len(self.prefix):], "$deltatoken=")))
        return reply

    def token_error(self, status, error, number, text):
        ident = str(uuid.uuid5(SPACE, "trace"))
        return Reply(status, json.dumps({
            "error": error,
            "error_description": "AADSTS%d: %s Trace ID: %s" % (number, text,
                                                                ident),
            "error_codes": [number], "trace_id": ident,
            "correlation_id": ident,
            "timestamp": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        }).encode(), headers=[date_header()])

    # Tokens

    def log_in(self, request, path):
        settings = self.settings
        if path != "/login/%s/oauth2/v2.0/token" % settings["tenant"]:
            raise TokenFailure(400, "invalid_request", 90002,
                               "Tenant not found.")
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        kind = request.headers.get("content-type", "").split(";")[0]
        if request.method != "POST" or \
                kind != "application/x-www-form-urlencoded" or \
                form.get("grant_type") != "client_credentials":
            raise TokenFailure(400, "unsupported_grant_type", 70003,
                               "The app requested an unsupported grant type.")
        if not form.get("scope", "").endswith("/.default"):
            raise TokenFailure(400, "invalid_scope", 70011,
                               "The provided value for scope is not valid.")
        if form.get("client_id") != settings["client_id"]:
            raise TokenFailure(400, "unauthorized_client", 700016,
                               "Application was not found in the directory.")
        if form.get("client_secret") != settings["client_secret"]:
            raise TokenFailure(401, "invalid_client", 7000215,
                               "Invalid client secret provided.")
        self.issued += 1
        digest = hashlib.sha512(b"entra %d %f" % (self.issued, time.time()))
        token = "eyJ0" + digest.hexdigest()
        self.tokens[token] = time.monotonic() + settings["token_lifetime"]
        return {"token_type": "Bearer", "access_token": token,
                "expires_in": settings["token_lifetime"],
                "ext_expires_in": settings["token_lifetime"]}

    def check_token(self, request):
        scheme, _, token = request.headers.get("authorization",
                                               "").partition(" ")
        if scheme != "Bearer" or \
                self.tokens.get(token, 0) <= time.monotonic():
            raise Failure("InvalidAuthenticationToken")

    # What the directory is to Graph

    def person_id(self, person):
        """Stays when the person is renamed, and comes back after a restart."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        return str(uuid.uuid5(SPACE, "user:" + first[1]))

    def person_row(self, person):
        login = person.uid + "@corp.test"
        if "@" in person.uid:
            login = person.uid.replace("@", "_") + "#EXT#@corp.test"
        main = self.directory.departments.get(person.main_department)
        phones = [person.telephone] if person.telephone else []
        return {
            "id": self.person_id(person), "userPrincipalName": login,
            "displayName": person.name, "givenName": person.english_name,
            "surname": None, "mail": person.biz_email or person.email,
            "mobilePhone": person.mobile, "businessPhones": phones,
            "otherMails": [], "proxyAddresses": proxies(person),
            "jobTitle": person.title, "department": main.name if main else None,
            "companyName": "Example", "employeeId": None,
            "officeLocation": person.address, "preferredLanguage": None,
            "accountEnabled": person.status != "disabled",
            "userType": "Guest" if "@" in person.uid else "Member",
        }

    def users(self):
        """All rows by id, what is empty as None."""
        rows = {}
        for person in self.directory.people.values():
            if person.status != "left":
                row = self.person_row(person)
                row = {key: None if value == "" else value
                       for key, value in row.items()}
                rows[row["id"]] = row
                self.once_set.setdefault(row["id"], set()).update(
                    key for key, value in row.items() if value is not None)
        return rows

    def groups(self):
        rows = {}
        for dept in self.directory.departments.values():
            ident = group_id(dept.id)
            rows[ident] = {
                "id": ident, "displayName": dept.name,
                "description": dept.name_en or None, "mail": None,
                "mailNickname": "g%d" % dept.id, "securityEnabled": True,
                "groupTypes": [], "visibility": "Private",
            }
        return rows

    def members_of(self, dept):
        """(type, id) of each, of several types."""
        found = [(USER_TYPE, self.person_id(person))
                 for person in self.directory.members.get(dept.id, ())
                 if person.status != "left"]
        found += [(GROUP_TYPE, group_id(child))
                  for child in self.directory.children.get(dept.id, ())]
        if not dept.parent:
            found.insert(1, (DEVICE_TYPE, str(uuid.uuid5(SPACE, "device"))))
        return found

    def owners_of(self, dept):
        people = self.directory.people
        return [(USER_TYPE, self.person_id(people[uid]))
                for uid in dept.leaders
                if uid in people and people[uid].status != "left"]

    def parents_of(self, dept):
        return [(GROUP_TYPE, group_id(dept.parent))] if dept.parent else []

    # Calls

    def graph(self, request, words):
        kind = words[0]
        needed = PERMISSIONS.get(kind)
        if needed is None or request.method != "GET":
            raise Failure("Request_BadRequest")
        if not set(needed) & set(self.settings["permissions"]):
            raise Failure("Authorization_RequestDenied")
        if "$skiptoken" in request.query:
            return self.next_page(request)
        rows = self.users if kind == "users" else self.groups
        if words[1:] == ["delta"]:
            return self.delta(request, kind, rows)
        if len(words) == 1:
            select = self.selected(request, kind)
            return self.listing(request, kind, [
                {key: row.get(key) for key in select}
                for row in rows().values()])
        row = rows().get(words[1])
        if row is None or len(words) > 3:
            raise Failure("Request_ResourceNotFound")
        if len(words) == 2:
            return {key: row.get(key) for key in self.selected(request, kind)}
        return self.related(request, kind, words[1], words[2])

    def related(self, request, kind, ident, what):
        call = {"members": self.members_of, "owners": self.owners_of,
                "memberOf": self.parents_of}.get(what)
        if kind != "groups" or call is None:
            raise Failure("Request_ResourceNotFound")
        dept = next(d for d in self.directory.departments.values()
                    if group_id(d.id) == ident)
        if dept.id in self.settings["hidden_groups"]:
            raise Failure("Authorization_RequestDenied")
        return self.listing(request, "directoryObjects", [
            {"@odata.type": kind, "id": other} for kind, other in call(dept)])

    def selected(self, request, kind):
        text = request.query.get("$select")
        if not text:
            return DEFAULT_USER if kind == "users" else (
                "id", "displayName", "description", "mail", "mailNickname")
        names = text.split(",")
        if UNLISTED & set(names):
            raise Failure("NotImplemented")
        return ("id", *(name for name in names if name != "id"))

    def listing(self, request, context, rows):
        top = request.query.get("$top", str(self.settings["page_size"]))
        if not top.isdigit() or not 1 <= int(top) <= MAX_TOP or \
                "$skip" in request.query:
            raise Failure("Request_BadRequest")
        # page_size holds for callers that ask for more, too
        size = min(int(top), self.settings["page_size"])
        pages = [rows[i:i + size] for i in range(0, len(rows), size)] or [[]]
        return self.first_page(request, context, pages, None)

    # Delta queries

    def delta(self, request, kind, rows):
        query = request.query
        if {"$top", "$orderby", "$expand"} & set(query):
            raise Failure("Request_BadRequest")
        token = query.get("$deltatoken")
        before = None
        if token and token != "latest":
            before = self.known_delta(token, kind)
            select = before["select"]
        else:
            select = self.selected(request, kind)
        now = {"kind": kind, "select": select, "rows": {
            ident: {key: row[key] for key in select if key in row}
            for ident, row in rows().items()}}
        if kind == "groups" and "members" in select:
            now["members"] = {group_id(d.id): self.members_of(d) for d
                              in self.directory.departments.values()}
        self.deltas.append(now)
        if token == "latest":
            changes = []
        elif before is None:
            changes = self.everything(now)
        else:
            changes = self.differences(before, now)
        size = self.settings["page_size"]
        pages = [changes[i:i + size] for i in range(0, len(changes), size)]
        if self.settings["empty_pages"]:
            pages.insert(len(pages) // 2, [])
        return self.first_page(request, kind, pages or [[]],
                               len(self.deltas) - 1)

    def known_delta(self, token, kind):
        if self.settings["delta_tokens"] == "gone":
            raise Failure("SyncStateNotFound")
        if self.settings["delta_tokens"] == "expired":
            raise Failure("Directory_ExpiredPageToken")
        number = read_token(token, "d")[0]
        if number >= len(self.deltas) or self.deltas[number]["kind"] != kind:
            raise Failure("Request_BadRequest")
        return self.deltas[number]

    def everything(self, now):
        """The first round: what was never set is left out."""
        entries = []
        later = []
        for ident, row in now["rows"].items():
            known = self.once_set.get(ident, ())
            entry = {k: v for k, v in row.items()
                     if v is not None or k in known}
            if self.settings["duplicates"]:
                entries.append(dict(entry, displayName="of yesterday"))
            chunks = self.in_chunks(now, ident)
            entries.append(dict(entry, **chunks[0]))
            later += [dict({"id": ident}, **chunk) for chunk in chunks[1:]]
        if now["kind"] == "users":
            later += [removed(self.person_id(p), "changed")
                      for p in self.directory.people.values()
                      if p.status == "left"]
        return entries + later

    def in_chunks(self, now, ident):
        """members@delta of a group, over as many entries as it takes."""
        if "members" not in now or not now["members"][ident]:
            return [{}]
        members = [{"@odata.type": kind, "id": other}
                   for kind, other in now["members"][ident]]
        size = self.settings["members_per_page"]
        return [{"members@delta": members[i:i + size]}
                for i in range(0, len(members), size)]

    def differences(self, before, now):
        entries = []
        for ident, row in now["rows"].items():
            old = before["rows"].get(ident)
            moved = self.moved(before, now, ident)
            if old == row and not moved:
                continue
            entry = {k: v for k, v in row.items()
                     if v is not None or (old or {}).get(k) is not None}
            if self.settings["duplicates"]:
                entries.append(dict(entry, displayName="of yesterday"))
            if moved:
                entry["members@delta"] = moved
            entries.append(entry)
        soft = {self.person_id(p) for p in self.directory.people.values()
                if p.status == "left"}
        entries += [removed(ident, "changed" if ident in soft else "deleted")
                    for ident in before["rows"] if ident not in now["rows"]]
        return entries

    def moved(self, before, now, ident):
        if "members" not in now:
            return []
        old = before["members"].get(ident, [])
        new = now["members"][ident]
        return [{"@odata.type": kind, "id": other}
                for kind, other in new if (kind, other) not in old] + \
            [dict(removed(other, "deleted"), **{"@odata.type": kind})
             for kind, other in old if (kind, other) not in new]

    # Pages

    def first_page(self, request, context, pages, delta):
        self.rounds.append((request.path[len(self.prefix):], context, pages,
                            delta))
        return self.page(request, len(self.rounds) - 1, 0)

    def next_page(self, request):
        number, page = read_token(request.query["$skiptoken"], "s")[:2]
        if number >= len(self.rounds) or \
                self.rounds[number][0] != request.path[len(self.prefix):]:
            raise Failure("Request_BadRequest")
        return self.page(request, number, page)

    def page(self, request, number, page):
        path, context, pages, delta = self.rounds[number]
        document = {"@odata.context": self.link(
            request, GRAPH + "/$metadata#" + context, "")}
        if page + 1 < len(pages):
            document["@odata.nextLink"] = self.link(
                request, path, "$skiptoken=" + make_token("s", number,
                                                          page + 1))
        elif delta is not None:
            document["@odata.deltaLink"] = self.link(
                request, path, "$deltatoken=" + make_token("d", delta))
        document["value"] = pages[page]
        return document

    def link(self, request, path, query):
        base = self.settings["link_base"]
        if base is None:
            base = "http://%s%s" % (request.headers.get("host", ""),
                                    self.prefix)
        return base + quote(path, safe="/$#") + ("?" + query if query else "")

    def records_key(self, document):
        return "value" if isinstance(document, dict) and \
            "value" in document else None

    def bend_cursor(self, request, document, circle):
        if "value" not in document:
            return
        last = document.pop("@odata.deltaLink", None)
        number, page = len(self.rounds) - 1, 0
        if "$skiptoken" in request.query:
            number, page = read_token(request.query["$skiptoken"], "s")[:2]
        turn = ()
        if circle:
            page = 0
        elif circle == 0:
            self.turn += 1
            turn = (self.turn,)
        if circle is None or last is not None or \
                "@odata.nextLink" not in document:
            document["@odata.nextLink"] = self.link(
                request, request.path[len(self.prefix):],
                "$skiptoken=" + make_token("s", number, page, *turn))


def group_id(number):
    return str(uuid.uuid5(SPACE, "group:%d" % number))


def proxies(person):
    """The main address is in capitals."""
    found = []
    if person.biz_email:
        found.append("SMTP:" + person.biz_email)
    if person.email:
        found.append("smtp:" + person.email)
    return found


def removed(ident, reason):
    return {"id": ident, "@removed": {"reason": reason}}


def date_header():
    return ("Date", formatdate(usegmt=True))


def make_token(kind, *numbers):
    """Opaque, and nothing that could be made up."""
    plain = kind + ".".join(map(str, numbers))
    return plain.encode().hex() + hashlib.md5(plain.encode()).hexdigest()[:8]


def read_token(text, kind):
    try:
        plain = bytes.fromhex(text[:-8]).decode()
        numbers = [int(n) for n in plain[1:].split(".")]
    except ValueError:
        raise Failure("Request_BadRequest")
    if plain[0] != kind or make_token(kind, *numbers) != text:
        raise Failure("Request_BadRequest")
    return numbers
