"""Keycloak as a service on the neutral directory.

Owns the token endpoint of a realm and the part of its admin API that a
directory reader needs: users with their number, groups with their children
and members.  A department is a group.  Who has left is not there any more.
Pages are cut first, and what the caller may not see is taken out then.
"""

import base64
import hashlib
import json
import time
import uuid
from urllib.parse import parse_qsl, unquote_plus

from httpd import Reply
from service import Service

SPACE = uuid.UUID("0c7de8d4-0a4e-4a3b-8a53-7d2c6a1f9e11")
MAX_DEFAULT = 100
CHILDREN_DEFAULT = 10
CREATED = 1767322800000
DIALECTS = ("nested", "lazy", "hierarchy")
COUNTS = ("all", "visible")
FORM = "application/x-www-form-urlencoded"


class Failure(Exception):
    """args: HTTP status, error, optionally error_description."""


class Keycloak(Service):
    name = "keycloak"
    prefix = "/keycloak"
    defaults = {
        "realm": "staff",
        "client_id": "user sync",
        "client_secret": "s&cret: 100%/+=?",
        "token_lifetime": 60,
        "rights": ["view-users", "query-groups"],
        "dialect": "lazy",
        "leave_out_empty": False,
        "hidden_people": [],
        "hidden_groups": [],
        "count": "all",
        "shift": 0,
        "federated": [],
        "old_errors": False,
        "retry_after": "1",
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.issued = 0
        self.first_names = {}

    def configure(self, changes):
        if changes.get("dialect", "lazy") not in DIALECTS:
            raise ValueError("dialect is one of %s" % (DIALECTS,))
        if changes.get("count", "all") not in COUNTS:
            raise ValueError("count is one of %s" % (COUNTS,))
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, 0)

    # Replies

    def handle(self, request, path):
        words = path.rstrip("/").split("/")[1:]
        try:
            if words[:1] == ["realms"]:
                return as_json(self.log_in(request, words))
            if words[:2] != ["admin", "realms"] or len(words) < 4:
                raise Failure(404, "RESTEASY003210: Could not find resource")
            self.check_token(request)
            self.check_realm(words[2])
            return as_json(self.admin(request, words[3:]))
        except Failure as failure:
            return self.fail(*failure.args)

    def fail(self, status, error, description=None):
        body = {"error": error}
        if description is not None:
            body["error_description"] = description
        return as_json(body, status)

    def error(self, request, what, message=None):
        """It has no limits of its own: a proxy in front of it does."""
        if what == "busy":
            return self.fail(500, "unknown_error",
                             "For more on this error consult the server log "
                             "at the debug level.")
        if what in ("throttle", "overlap"):
            reply = Reply(429, b"<html><body>Too Many Requests</body></html>",
                          "text/html")
            if self.settings["retry_after"]:
                reply.headers.append(("Retry-After",
                                      self.settings["retry_after"]))
            return reply
        if what == "address":
            return self.forbidden()
        return as_json({"errorMessage": message or str(what)}, 400)

    def forbidden(self):
        return self.fail(403, self.by_age("HTTP 403 Forbidden",
                                          "unknown_error"))

    def by_age(self, new, old):
        return old if self.settings["old_errors"] else new

    # Tokens

    def check_realm(self, name):
        if name != self.settings["realm"]:
            raise Failure(404, self.by_age("Realm does not exist",
                                           "Realm not found."))

    def log_in(self, request, words):
        if words[2:] != ["protocol", "openid-connect", "token"] or \
                request.method != "POST":
            raise Failure(404, "RESTEASY003210: Could not find resource")
        self.check_realm(words[1])
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        kind = request.headers.get("content-type", "").split(";")[0]
        if kind != FORM or "grant_type" not in form:
            raise Failure(400, "invalid_request",
                          "Missing form parameter: grant_type")
        name, secret = self.given_secret(request, form)
        if name != self.settings["client_id"] or \
                secret != self.settings["client_secret"]:
            raise Failure(401, self.by_age("invalid_client",
                                           "unauthorized_client"),
                          "Invalid client or Invalid client credentials")
        if form["grant_type"] != "client_credentials":
            raise Failure(400, "unsupported_grant_type",
                          "Unsupported grant_type")
        self.issued += 1
        token = "eyJ" + hashlib.sha512(b"keycloak %d %f" % (
            self.issued, time.time())).hexdigest()
        lifetime = self.settings["token_lifetime"]
        self.tokens[token] = time.monotonic() + lifetime
        return {"access_token": token, "expires_in": lifetime,
                "refresh_expires_in": 0, "token_type": "Bearer",
                "not-before-policy": 0, "scope": "email profile"}

    def given_secret(self, request, form):
        """Of the header, each part form-encoded, or of the body."""
        scheme, _, text = request.headers.get("authorization",
                                              "").partition(" ")
        if scheme != "Basic":
            return form.get("client_id"), form.get("client_secret")
        name, _, secret = base64.b64decode(text).decode().partition(":")
        return unquote_plus(name), unquote_plus(secret)

    def check_token(self, request):
        scheme, _, token = request.headers.get("authorization",
                                               "").partition(" ")
        if scheme != "Bearer" or \
                self.tokens.get(token, 0) <= time.monotonic():
            raise Failure(401, "HTTP 401 Unauthorized")

    def require(self, *rights):
        if not set(rights) & set(self.settings["rights"]):
            raise Failure(403, self.by_age("HTTP 403 Forbidden",
                                           "unknown_error"))

    # What the directory is to Keycloak

    def person_id(self, person):
        """Stays when the person is renamed, and comes back after a restart."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        ident = str(uuid.uuid5(SPACE, "user:" + first[1]))
        if first[1] in self.settings["federated"]:
            return "f:%s:%s" % (uuid.uuid5(SPACE, "ldap"), first[1])
        return ident

    def people(self):
        """Who is there, by username."""
        return sorted((p for p in self.directory.people.values()
                       if p.status != "left"), key=lambda p: p.uid.lower())

    def sees(self, person):
        return "view-users" in self.settings["rights"] and \
            person.uid not in self.settings["hidden_people"]

    def user(self, person, brief):
        given, _, family = person.name.partition(" ")
        row = {"id": self.person_id(person), "createdTimestamp": CREATED,
               "username": person.uid.lower(), "firstName": given,
               "lastName": family, "email": person.biz_email or person.email,
               "emailVerified": person.status == "active",
               "enabled": person.status != "disabled", "totp": False,
               "access": {"view": True, "manage": False}}
        row = {key: value for key, value in row.items()
               if value not in (None, "")}
        if row["id"].startswith("f:"):
            row["federationLink"] = row["id"].split(":")[1]
        if brief:
            return row
        row.update(disableableCredentialTypes=[], notBefore=0,
                   requiredActions=[] if person.status == "active"
                   else ["VERIFY_EMAIL"])
        found = {"phone": person.mobile, "picture": person.avatar,
                 "title": person.title, "displayName": person.alias,
                 "locale": "en"}
        row["attributes"] = {key: [value] for key, value in found.items()
                             if value}
        return row

    def group(self, dept, brief):
        """Without what each dialect says of its children."""
        row = {"id": group_id(dept.id), "name": dept.name,
               "path": self.path_of(dept), "access": {"view": True}}
        if not brief:
            people = self.directory.people
            leaders = [self.person_id(people[uid]) for uid in dept.leaders
                       if uid in people]
            row.update(attributes={"owner": leaders} if leaders else {},
                       realmRoles=[], clientRoles={})
        if self.settings["dialect"] != "nested" and dept.parent:
            row["parentId"] = group_id(dept.parent)
        return row

    def path_of(self, dept):
        above = self.directory.departments.get(dept.parent)
        return (self.path_of(above) if above else "") + "/" + \
            dept.name.replace("/", "~/")

    def children(self, ident):
        departments = self.directory.departments
        return sorted((departments[child] for child
                       in self.directory.children.get(ident, ())),
                      key=lambda dept: (dept.name, dept.id))

    def tree(self, dept, brief):
        """A group with what a listing says of its children."""
        row = self.group(dept, brief)
        below = self.children(dept.id)
        dialect = self.settings["dialect"]
        row["subGroups"] = []
        if dialect == "nested":
            row["subGroups"] = [self.tree(child, brief) for child in below]
        else:
            row["subGroupCount"] = len(below)
        if dialect == "hierarchy":
            # what a search would have found, and nothing of the rest
            row["subGroups"] = [self.tree(child, brief)
                                for child in below[:1]]
        if self.settings["leave_out_empty"] and not row["subGroups"]:
            del row["subGroups"]
        return row

    # Calls

    def admin(self, request, words):
        if request.method != "GET":
            raise Failure(405, "HTTP 405 Method Not Allowed")
        if words[0] == "users":
            self.require("view-users", "query-users")
            return self.users(request, words)
        if words[0] == "groups":
            self.require("view-users", "query-groups")
            return self.groups(request, words)
        raise Failure(404, "RESTEASY003210: Could not find resource")

    def users(self, request, words):
        people = self.people()
        if words == ["users", "count"]:
            return len(people) if self.settings["count"] == "all" \
                else sum(map(self.sees, people))
        if words == ["users"]:
            if int(request.query.get("first", 0)) > 0:
                # some of those before have been deleted meanwhile
                people = people[self.settings["shift"]:]
            brief = is_true(request, "briefRepresentation", False)
            return [self.user(person, brief)
                    for person in page(request, people) if self.sees(person)]
        for person in people:
            if [self.person_id(person)] == words[1:]:
                return self.user(person, False)
        raise Failure(404, "User not found")

    def groups(self, request, words):
        departments = self.directory.departments
        if words == ["groups", "count"]:
            top = is_true(request, "top", False)
            return {"count": len(self.children(0)) if top
                    else len(departments)}
        if words == ["groups"]:
            brief = is_true(request, "briefRepresentation", True)
            return [self.tree(dept, brief)
                    for dept in page(request, self.children(0))]
        for dept in departments.values():
            if group_id(dept.id) == words[1]:
                return self.one_group(request, dept, words[2:])
        raise Failure(404, "Could not find group by id")

    def one_group(self, request, dept, words):
        if not words:
            return self.tree(dept, False)
        if words == ["children"] and self.settings["dialect"] != "nested":
            brief = is_true(request, "briefRepresentation", False)
            return [self.tree(child, brief) for child
                    in page(request, self.children(dept.id),
                            CHILDREN_DEFAULT)]
        if words == ["members"]:
            self.require("view-users")
            if dept.id in self.settings["hidden_groups"]:
                raise Failure(403, self.by_age("HTTP 403 Forbidden",
                                               "unknown_error"))
            inside = {id(p) for p in self.directory.members.get(dept.id, ())}
            brief = is_true(request, "briefRepresentation", False)
            return [self.user(person, brief) for person in page(
                request, [p for p in self.people() if id(p) in inside])]
        raise Failure(404, "RESTEASY003210: Could not find resource")

    def records_key(self, document):
        """A page is the bare list."""
        return None

    def bend_cursor(self, request, document, circle):
        """Pages are asked for by number."""


def group_id(number):
    return str(uuid.uuid5(SPACE, "group:%d" % number))


def is_true(request, key, default):
    return request.query.get(key, str(default)).lower() == "true"


def page(request, rows, size=MAX_DEFAULT):
    """From first on, no more than max; a negative max is no limit."""
    try:
        first = max(int(request.query.get("first", 0)), 0)
        size = int(request.query.get("max", size))
    except ValueError:
        raise Failure(404, "HTTP 404 Not Found")
    return rows[first:] if size < 0 else rows[first:first + size]


def as_json(document, status=200):
    return Reply(status, json.dumps(document, ensure_ascii=False).encode())
