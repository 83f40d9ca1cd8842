"""A SCIM 2.0 service provider on the neutral directory.

Owns ServiceProviderConfig, Users and Groups under /scim/v2, paging by index and
by cursor, its filters, and the ways in which real servers depart from the
standard, each a setting.  A department is a group, and its child departments
are members of it.  What changed since the last request is stamped with the
time of the next one.
"""

import base64
import json
import time
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote_plus

from httpd import Reply
from service import Service, seconds

BASE = "/v2"
CORE = "urn:ietf:params:scim:schemas:core:2.0:"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
MESSAGES = "urn:ietf:params:scim:api:messages:2.0:"
START = 1767254400
PHOTO = "https://img.test/"


class Failure(Exception):
    """args: HTTP status, scimType or None, text."""


class Scim(Service):
    name = "scim"
    prefix = "/scim"
    defaults = {
        "token": "t0ken",
        "username": "reader",
        "password": "pa:ss w0rd/%",
        "client_id": "cl&ient",
        "client_secret": "s3cr+et%",
        "token_lifetime": 3600,
        "page_size": 100,
        "cursors": None,
        "expired_cursors": 0,
        "wraps": False,
        "ignores_paging": False,
        "absent_resources": False,
        "totals": "number",
        "extra_total": 0,
        "filters": True,
        "groups": True,
        "list_members": True,
        "member_types": True,
        "content_type": "application/scim+json",
        "retry_after": "1",
        "nulls": False,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.issued = 0
        self.version = None
        self.rows = {}
        self.stamps = {}
        self.first_names = {}

    def configure(self, changes):
        if changes.get("cursors") not in (None, "asked", "always"):
            raise ValueError("cursors is null, asked or always")
        if changes.get("totals", "number") not in ("number", "text", None):
            raise ValueError("totals is number, text or null")
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, 0)

    # Replies

    def as_reply(self, document, status=200, headers=()):
        kept = [("Date", formatdate(time.time(), usegmt=True))]
        return Reply(status, json.dumps(document, ensure_ascii=False)
                     .replace("https://", "https:\\/\\/").encode(),
                     self.settings["content_type"], kept + list(headers))

    def fail(self, status, kind, text, headers=()):
        document = {"schemas": [MESSAGES + "Error"], "status": str(status),
                    "detail": text}
        if kind:
            document["scimType"] = kind
        return self.as_reply(document, status, headers)

    def error(self, request, what, message=None):
        if what in ("throttle", "overlap"):
            wait = self.settings["retry_after"]
            return self.fail(429, None, "too many requests",
                             [("Retry-After", wait)] if wait else [])
        if what == "busy":
            return self.fail(500, None, "try again")
        if what == "address":
            return self.fail(403, None, "not from this address")
        return self.fail(400, what, message or "it went wrong")

    def handle(self, request, path):
        self.follow()
        try:
            if path == "/oauth/token":
                return self.as_reply(self.log_in(request))
            if not path.startswith(BASE + "/"):
                raise Failure(404, None, "no such endpoint")
            self.check_login(request)
            return self.as_reply(self.call(request,
                                           path[len(BASE) + 1:].split("/")))
        except Failure as failure:
            status = failure.args[0]
            return self.fail(*failure.args, headers=[
                ("WWW-Authenticate", "Bearer")] if status == 401 else [])

    # Logging in

    def basic(self, request):
        scheme, _, text = request.headers.get("authorization",
                                              "").partition(" ")
        if scheme != "Basic":
            return None
        return base64.b64decode(text).decode().partition(":")[::2]

    def log_in(self, request):
        form = dict(parse_qsl(request.body.decode()))
        given = self.basic(request)
        given = tuple(unquote_plus(x) for x in given) if given else \
            (form.get("client_id"), form.get("client_secret"))
        settings = self.settings
        if given != (settings["client_id"], settings["client_secret"]) or \
                form.get("grant_type") != "client_credentials":
            raise Failure(401, None, "invalid_client")
        self.issued += 1
        token = "oauth-%d-%d" % (self.issued, time.time_ns())
        self.tokens[token] = time.monotonic() + settings["token_lifetime"]
        return {"access_token": token, "token_type": "Bearer",
                "scope": form.get("scope"),
                "expires_in": settings["token_lifetime"]}

    def check_login(self, request):
        settings = self.settings
        token = request.headers.get("authorization", "")[len("Bearer "):]
        if token == settings["token"] or \
                self.tokens.get(token, 0) > time.monotonic() or \
                self.basic(request) == (settings["username"],
                                        settings["password"]):
            return
        raise Failure(401, None, "who are you?")

    # What the directory is to SCIM

    def follow(self):
        """Stamp what has changed since the last request."""
        if self.version == self.directory.version:
            return
        first = self.version is None
        self.version = self.directory.version
        stamp = START if first else time.time()
        rows = {}
        for person in self.directory.people.values():
            if person.status != "left":
                row = self.person(person)
                rows["Users", row["id"]] = row
        for dept in self.directory.departments.values():
            row = self.group(dept)
            rows["Groups", row["id"]] = row
        for key, row in rows.items():
            if self.rows.get(key) != row:
                self.stamps[key] = stamp
        self.rows = rows

    def person_id(self, person):
        """Stays when the person is renamed."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        return "usr-" + first[1]

    def person(self, person):
        main = self.directory.departments.get(person.main_department)
        given, _, family = person.name.partition(" ")
        mails = [{"value": value, "type": kind, "primary": kind == "work"}
                 for value, kind in ((person.email, "home"),
                                     (person.biz_email, "work")) if value]
        phones = [{"value": "tel:" + value if kind == "mobile" else value,
                   "type": kind}
                  for value, kind in ((person.telephone, "work"),
                                      (person.mobile, "mobile")) if value]
        row = {
            "id": self.person_id(person), "externalId": "hr-" + person.uid,
            "userName": person.uid + "@corp.test",
            "active": person.status != "disabled",
            "name": {"givenName": given, "familyName": family,
                     "formatted": person.name},
            "displayName": person.name, "nickName": person.alias,
            "title": person.title, "emails": mails, "phoneNumbers": phones,
            "photos": [{"value": person.avatar, "type": "photo"}]
            if person.avatar else [],
            ENTERPRISE: {"department": main.name if main else None,
                         "manager": {"value": "usr-" + person.managers[0]}
                         if person.managers else None},
        }
        if not self.settings["nulls"]:
            row = {key: value for key, value in row.items()
                   if value not in (None, "", [])}
        return row

    def group(self, dept):
        people = [{"value": self.person_id(person), "type": "User",
                   "display": person.name}
                  for person in self.directory.members.get(dept.id, ())
                  if person.status != "left"]
        groups = [{"value": "grp-%d" % child, "type": "Group"}
                  for child in self.directory.children.get(dept.id, ())]
        return {"id": "grp-%d" % dept.id, "displayName": dept.name,
                "members": groups + people}

    def shown(self, key, listed=True):
        kind, ident = key
        row = dict(self.rows[key])
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ",
                              time.gmtime(self.stamps[key]))
        row["meta"] = {"resourceType": kind[:-1], "lastModified": stamp,
                       "location": "%s/%s/%s" % (BASE, kind, ident)}
        row["schemas"] = [CORE + kind[:-1]]
        if kind == "Groups":
            if not self.settings["list_members"] and listed:
                row.pop("members")
            elif not self.settings["member_types"]:
                row["members"] = [{"value": m["value"]}
                                  for m in row["members"]]
        return row

    # Calls

    def call(self, request, words):
        if request.method != "GET":
            raise Failure(405, None, "read only")
        if words == ["ServiceProviderConfig"]:
            return {"filter": {"supported": self.settings["filters"]},
                    "pagination": {"index": True, "cursor":
                                   self.settings["cursors"] is not None}}
        if words[0] not in ("Users", "Groups") or len(words) > 2 or \
                (words[0] == "Groups" and not self.settings["groups"]):
            raise Failure(404, None, "no such endpoint")
        if len(words) == 2:
            if (words[0], words[1]) not in self.rows:
                raise Failure(404, None, words[1] + " not found")
            return self.shown((words[0], words[1]), listed=False)
        keys = self.wanted(request, words[0])
        return self.page(request, keys)

    def wanted(self, request, kind):
        keys = [key for key in self.rows if key[0] == kind]
        text = request.query.get("filter")
        if text is None:
            return keys
        name, operator, value = (text.split(" ", 2) + ["", ""])[:3]
        if not self.settings["filters"] or name != "meta.lastModified" or \
                operator not in ("ge", "gt") or value[:1] != '"':
            raise Failure(400, "invalidFilter", "this filter is not supported")
        since = seconds(value.strip('"'))
        return [key for key in keys if self.stamps[key] >= since]

    def page(self, request, keys):
        query, settings = request.query, self.settings
        count = query.get("count", "20")
        size = min(max(int(count), 0), settings["page_size"])
        by_cursor = settings["cursors"] == "always" or \
            (settings["cursors"] and "cursor" in query)
        if by_cursor:
            start = self.read_cursor(query.get("cursor", ""))
        else:
            start = max(int(query.get("startIndex", "1")), 1) - 1
        if settings["ignores_paging"]:
            start, size = 0, 20
        if settings["wraps"] and start >= len(keys):
            start = 0
        total = len(keys) + settings["extra_total"]
        document = {"schemas": [MESSAGES + "ListResponse"],
                    "itemsPerPage": int(count),
                    "startIndex": int(query.get("startIndex", "1")),
                    "Resources": [self.shown(key)
                                  for key in keys[start:start + size]]}
        if settings["totals"] is not None:
            document["totalResults"] = total \
                if settings["totals"] == "number" else str(total)
        if settings["absent_resources"] and not document["Resources"]:
            document.pop("Resources")
        if by_cursor:
            document.pop("startIndex")
            if start + size < len(keys):
                document["nextCursor"] = "c~%d" % (start + size)
        return document

    def read_cursor(self, text):
        if text == "":
            return 0
        if self.settings["expired_cursors"] > 0:
            self.settings["expired_cursors"] -= 1
            raise Failure(400, "expiredCursor", "begin again")
        if not text.startswith("c~"):
            raise Failure(400, "invalidCursor", "what is that?")
        return int(text[2:])

    def records_key(self, document):
        return "Resources" if "Resources" in document else None

    def bend_cursor(self, request, document, circle):
        if "nextCursor" in document:
            document["nextCursor"] = request.query.get("cursor", "c~0")
