"""Google Workspace as a service on the neutral directory.

Owns the token endpoint, which checks signed assertions, and the part of the
Directory API under /admin/directory/v1 that a directory reader needs: users,
deleted users, organizational units, groups and members.  A person is in the
unit of the main department; groups are the departments as well, with all their
members.  Who has left was deleted and can still be restored; who was removed
from the directory is gone for good.
"""

import gzip
import hashlib
import json
import time
from urllib.parse import parse_qsl, unquote

from httpd import Reply
from rs256 import Refused, verify
from service import Service

API = "/admin/directory/v1/"
TOKEN_PATH = "/token"
AUDIENCE = "https://oauth2.googleapis.com/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/admin.directory."
SCOPES = {name: SCOPE + name + ".readonly" for name
          in ("user", "orgunit", "group", "group.member")}
CUSTOMERS = ("my_customer", "C03az79cb")
NEVER = "1970-01-01T00:00:00.000Z"
CREATED = "2026-01-02T03:04:05.000Z"
# reason: status and message
REASONS = {
    "authError": (401, "Invalid Credentials"),
    "forbidden": (403, "Not Authorized to access this resource/api"),
    "insufficientPermissions": (403, "Request had insufficient "
                                     "authentication scopes."),
    "accessNotConfigured": (403, "Admin SDK API has not been used in project "
                                 "1234 before or it is disabled."),
    "userRateLimitExceeded": (403, "Request rate higher than configured."),
    "quotaExceeded": (403, "Too many concurrent requests."),
    "dailyLimitExceeded": (403, "Daily Limit Exceeded"),
    "rateLimitExceeded": (429, "Quota exceeded for quota metric 'Queries'."),
    "badRequest": (400, "Bad Request"),
    "invalid": (400, "Invalid Input"),
    "notFound": (404, "Resource Not Found"),
    "backendError": (503, "Service unavailable. Please try again"),
}
NAMED = {"busy": "backendError", "overlap": "quotaExceeded",
         "address": "accessNotConfigured"}


class Failure(Exception):
    """args: reason, optionally the text."""


class TokenFailure(Exception):
    """args: HTTP status, error, text."""


class Google(Service):
    name = "google"
    prefix = "/google"
    defaults = {
        "client_email": "sync@proj.iam.gserviceaccount.com",
        "public_key": None,
        "admins": ["admin@corp.test"],
        "delegated": sorted(SCOPES),
        "token_lifetime": 3599,
        "clock_skew": 0,
        "page_size": 500,
        "throttle": "userRateLimitExceeded",
        "retry_after": None,
        "archived": [],
        "purged": [],
        "odd_types": False,
        "vary_case": False,
        "hidden_groups": [],
        "missing_groups": [],
        "gzip": False,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.issued = 0
        self.first_names = {}
        self.turn = 0
        self.version = None

    def configure(self, changes):
        if changes.get("throttle", "rateLimitExceeded") not in REASONS:
            raise ValueError("throttle is one of %s" % sorted(REASONS))
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, (0, (), ""))

    # Replies

    def handle(self, request, path):
        self.follow()
        try:
            if path == TOKEN_PATH:
                return as_json(self.log_in(request))
            if not path.startswith(API):
                raise Failure("notFound")
            scopes = self.check_token(request)
            words = [unquote(word) for word in path[len(API):].split("/")]
            return self.finish(request, self.call(request, words, scopes))
        except TokenFailure as failure:
            status, error, text = failure.args
            return as_json({"error": error, "error_description": text},
                           status)
        except Failure as failure:
            return self.error(request, *failure.args)

    def finish(self, request, document):
        """With an etag, which a later request may ask with."""
        digest = hashlib.sha1(json.dumps(document).encode()).hexdigest()
        document = {"kind": document["kind"], "etag": '"%s"' % digest,
                    **document}
        etag = ("ETag", document["etag"])
        if request.headers.get("if-none-match") == document["etag"]:
            return Reply(304, b"", headers=[etag])
        reply = as_json(document)
        reply.headers.append(etag)
        if self.settings["gzip"]:
            reply.body = gzip.compress(reply.body)
            reply.headers.append(("Content-Encoding", "gzip"))
        return reply

    def error(self, request, what, message=None):
        reason = NAMED.get(what, what)
        if what == "throttle":
            reason = self.settings["throttle"]
        status, text = REASONS.get(reason, (400, "Failed"))
        text = message or text
        limited = reason.endswith("Exceeded")
        reply = as_json({"error": {
            "code": status, "message": text, "errors": [
                {"message": text, "reason": reason,
                 "domain": "usageLimits" if limited else "global"}]}}, status)
        if limited and self.settings["retry_after"]:
            reply.headers.append(("Retry-After",
                                  self.settings["retry_after"]))
        return reply

    # Tokens

    def log_in(self, request):
        form = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        kind = request.headers.get("content-type", "").split(";")[0]
        if request.method != "POST" or form.get("grant_type") != GRANT or \
                kind != "application/x-www-form-urlencoded":
            raise TokenFailure(400, "unsupported_grant_type",
                               "Invalid grant_type: " +
                               form.get("grant_type", ""))
        claims = self.check_assertion(form.get("assertion", ""))
        scopes = claims.get("scope", "").split()
        if not scopes or set(scopes) - set(SCOPES.values()):
            raise TokenFailure(400, "invalid_scope",
                               "Invalid OAuth scope or ID token audience "
                               "provided.")
        granted = {SCOPES[name] for name in self.settings["delegated"]}
        if set(scopes) - granted:
            raise TokenFailure(401, "unauthorized_client",
                               "Client is unauthorized to retrieve access "
                               "tokens using this method, or client not "
                               "authorized for any of the scopes requested.")
        self.issued += 1
        token = "ya29." + hashlib.sha512(b"google %d %f" % (
            self.issued, time.time())).hexdigest()
        lifetime = self.settings["token_lifetime"]
        self.tokens[token] = (time.monotonic() + lifetime, scopes,
                              claims.get("sub"))
        return {"access_token": token, "expires_in": lifetime,
                "token_type": "Bearer"}

    def check_assertion(self, assertion):
        def refuse(text):
            raise TokenFailure(400, "invalid_grant", text)
        settings = self.settings
        if not settings["public_key"]:
            refuse("Invalid grant: account not found")
        try:
            _, claims = verify(assertion, settings["public_key"])
        except Refused:
            refuse("Invalid JWT Signature.")
        now = time.time() + settings["clock_skew"]
        issued, ends = claims.get("iat"), claims.get("exp")
        if claims.get("iss") != settings["client_email"]:
            refuse("Invalid grant: account not found")
        if claims.get("aud") != AUDIENCE:
            refuse("Invalid JWT: Failed audience check.")
        if not isinstance(issued, int) or not isinstance(ends, int) or \
                ends - issued > 3600 or issued > now + 300 or ends < now:
            refuse("Invalid JWT: Token must be a short-lived token (60 "
                   "minutes) and in a reasonable timeframe. Check your iat "
                   "and exp values in the JWT claim.")
        subject = claims.get("sub")
        known = [row["primaryEmail"] for row in self.users.values()]
        if subject is not None and \
                subject not in known + settings["admins"]:
            refuse("Invalid email or User ID")
        return claims

    def check_token(self, request):
        """The scopes of the token."""
        scheme, _, token = request.headers.get("authorization",
                                               "").partition(" ")
        until, scopes, subject = self.tokens.get(token, (0, (), ""))
        if scheme != "Bearer" or until <= time.monotonic():
            raise Failure("authError")
        if subject not in self.settings["admins"]:
            raise Failure("forbidden")
        return scopes

    # What the directory is to Google

    def follow(self):
        """Everything anew when something has changed."""
        state = (self.directory.version, json.dumps(self.settings))
        if self.version == state:
            return
        self.version = state
        self.paths = {}
        departments = self.directory.departments
        for dept in departments.values():
            self.path_of(dept)
        self.users = {}
        self.deleted = {}
        for person in self.directory.people.values():
            row = self.user(person)
            if person.status == "left":
                row["deletionTime"] = CREATED
                if person.uid not in self.settings["purged"]:
                    self.deleted[row["id"]] = row
            else:
                self.users[row["id"]] = row
        self.groups = {group_id(d.id): self.group(d)
                       for d in departments.values()}

    def path_of(self, dept):
        """Names of siblings differ, whatever their case; none has a slash."""
        if dept.id in self.paths:
            return self.paths[dept.id]
        above = self.directory.departments.get(dept.parent)
        if above is None:
            self.paths[dept.id] = "/"
            return "/"
        path = "%s/%s" % (self.path_of(above).rstrip("/"),
                          dept.name.replace("/", "-"))
        taken = {other.lower() for other in self.paths.values()}
        if path.lower() in taken:
            path += " %d" % dept.id
        self.paths[dept.id] = path
        return path

    def person_id(self, person):
        """21 digits; stays when the person is renamed."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        return digits("user:" + first[1])

    def user(self, person):
        given, _, family = person.name.partition(" ")
        place = person.main_department
        if place not in self.paths:
            place = person.memberships[0].department \
                if person.memberships else min(self.paths)
        path = self.paths[place]
        if self.settings["vary_case"]:
            path = path.upper()
        email = person.uid if "@" in person.uid \
            else person.uid.lower() + "@corp.test"
        never = person.status == "inactive"
        row = {
            "kind": "admin#directory#user", "id": self.person_id(person),
            "primaryEmail": email,
            "name": {"givenName": given, "familyName": family or given,
                     "fullName": person.name},
            "isAdmin": False, "isDelegatedAdmin": False,
            "lastLoginTime": NEVER if never else CREATED,
            "creationTime": CREATED, "agreedToTerms": not never,
            "suspended": person.status == "disabled",
            "archived": person.uid in self.settings["archived"],
            "emails": [{"address": email, "primary": True}],
            "orgUnitPath": path, "customerId": CUSTOMERS[1],
            "isMailboxSetup": True,
        }
        if row["suspended"]:
            row["suspensionReason"] = "ADMIN"
        if person.alias:
            row["name"]["displayName"] = person.alias
        phones = [{"value": value, "type": kind} for value, kind in (
            (person.telephone, "work"), (person.mobile, "mobile")) if value]
        if phones:
            phones[0]["primary"] = True
            row["phones"] = self.listed(phones)
        if person.title:
            row["organizations"] = self.listed([
                {"title": person.title, "primary": True, "type": "work"}])
        if person.avatar:
            row["thumbnailPhotoUrl"] = person.avatar
        if person.managers:
            row["relations"] = self.listed([
                {"value": "%s@corp.test" % person.managers[0].lower(),
                 "type": "manager"}])
        return row

    def listed(self, items):
        """A list of one may be no list."""
        if self.settings["odd_types"] and len(items) == 1:
            return items[0]
        return items

    def org_unit(self, dept):
        departments = self.directory.departments
        above = departments.get(dept.parent)
        row = {"kind": "admin#directory#orgUnit", "name": dept.name,
               "description": dept.name_en or "",
               "orgUnitPath": self.paths[dept.id],
               "orgUnitId": "id:" + group_id(dept.id)}
        if above is not None:
            row["parentOrgUnitPath"] = self.paths[above.id]
            row["parentOrgUnitId"] = "id:" + group_id(above.id)
        return row

    def group(self, dept):
        inside = self.directory.members.get(dept.id, ())
        return {"kind": "admin#directory#group", "id": group_id(dept.id),
                "email": "group%d@corp.test" % dept.id, "name": dept.name,
                "description": dept.name_en or "", "adminCreated": True,
                "directMembersCount": str(len(inside))}

    def members(self, dept):
        """People, groups below, and of the root the whole company."""
        leads = {id(p): m.leader for p in self.directory.members.get(
            dept.id, ()) for m in p.memberships if m.department == dept.id}
        rows = []
        for person in self.directory.members.get(dept.id, ()):
            if person.status != "left":
                user = self.users[self.person_id(person)]
                rows.append({
                    "id": user["id"], "email": user["primaryEmail"],
                    "role": "OWNER" if leads[id(person)] else "MEMBER",
                    "type": "USER", "status": "SUSPENDED"
                    if user["suspended"] else "ACTIVE"})
        rows += [{"id": group_id(child), "role": "MEMBER", "type": "GROUP",
                  "email": "group%d@corp.test" % child, "status": "ACTIVE"}
                 for child in self.directory.children.get(dept.id, ())]
        if not dept.parent:
            rows.insert(1, {"id": CUSTOMERS[1], "role": "MEMBER",
                            "type": "CUSTOMER", "status": "ACTIVE"})
            rows.append({"id": digits("stranger"), "role": "MEMBER",
                         "email": "someone@elsewhere.test",
                         "type": "EXTERNAL", "status": "ACTIVE"})
        return [dict(row, kind="admin#directory#member") for row in rows]

    # Calls

    def call(self, request, words, scopes):
        if request.method != "GET":
            raise Failure("badRequest")

        def need(*names):
            if not {SCOPES[name] for name in names} & set(scopes):
                raise Failure("insufficientPermissions")

        if words[0] == "users" and len(words) <= 2:
            need("user")
            return self.read_users(request, words[1:])
        if words[0] == "customer" and words[2:] == ["orgunits"]:
            need("orgunit")
            return self.read_org_units(request, words[1])
        if words == ["groups"]:
            need("group")
            check_customer(request.query.get("customer"))
            return self.listing(request, "groups", list(
                self.groups.values()), 200)
        if words[0] == "groups" and words[2:] == ["members"]:
            need("group", "group.member")
            return self.read_members(request, words[1])
        raise Failure("notFound")

    def read_users(self, request, words):
        query = request.query
        if words:
            for row in self.users.values():
                if words[0] in (row["id"], row["primaryEmail"]):
                    return row
            raise Failure("notFound", "Resource Not Found: userKey")
        check_customer(query.get("customer"))
        rows = self.deleted if query.get("showDeleted") == "true" \
            else self.users
        rows = sorted(rows.values(), key=lambda row: row["primaryEmail"])
        if query.get("projection") == "full":
            rows = [dict(row, customSchemas={
                "HR": {"badge": "B" + row["id"][-4:]}}) for row in rows]
        return self.listing(request, "users", rows, 500)

    def read_org_units(self, request, customer):
        """The root only if it is asked for; no list if there is nothing."""
        check_customer(customer)
        departments = self.directory.departments.values()
        kind = request.query.get("type", "children")
        if kind not in ("all", "children", "allIncludingParent"):
            raise Failure("invalid", "Invalid Input: type")
        tops = [dept.id for dept in departments if not dept.parent]
        rows = [self.org_unit(dept) for dept in departments
                if (kind == "allIncludingParent" or dept.parent)
                and (kind != "children" or dept.parent in tops)]
        document = {"kind": "admin#directory#orgUnits"}
        if rows:
            document["organizationUnits"] = rows
        return document

    def read_members(self, request, key):
        for dept in self.directory.departments.values():
            if key not in (group_id(dept.id), "group%d@corp.test" % dept.id):
                continue
            if dept.id in self.settings["hidden_groups"]:
                raise Failure("forbidden")
            if dept.id in self.settings["missing_groups"]:
                break
            return self.listing(request, "members", self.members(dept), 200)
        raise Failure("notFound", "Resource Not Found: groupKey")

    def listing(self, request, what, rows, most):
        query = request.query
        text = query.get("maxResults", "100" if what == "users" else "200")
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise Failure("invalid", "Invalid Input: maxResults")
        # page_size holds for callers that ask for more, too
        size = min(int(text), self.settings["page_size"])
        start = 0
        if "pageToken" in query:
            start = read_token(query["pageToken"])
        document = {"kind": "admin#directory#" + what}
        if rows[start:start + size]:
            document[what] = rows[start:start + size]
        if start + size < len(rows):
            document["nextPageToken"] = make_token(start + size)
        return document

    def records_key(self, document):
        for key in "users", "groups", "members", "organizationUnits":
            if key in document:
                return key
        return None

    def bend_cursor(self, request, document, circle):
        start = 0
        if "pageToken" in request.query and not circle:
            start = read_token(request.query["pageToken"])
        turn = 0
        if circle == 0:
            self.turn += 1
            turn = self.turn
        elif circle and "nextPageToken" in document:
            return
        document["nextPageToken"] = make_token(start, turn)


def check_customer(customer):
    if customer is None:
        raise Failure("badRequest")
    if customer not in CUSTOMERS:
        raise Failure("forbidden")


def digits(text):
    """21 digits, which no number type keeps."""
    return "1%020d" % (int(hashlib.md5(text.encode()).hexdigest(), 16)
                       % 10 ** 20)


def group_id(number):
    return "0%s" % hashlib.md5(b"group:%d" % number).hexdigest()[:14]


def make_token(start, turn=0):
    plain = "%d.%d" % (start, turn)
    return "EAAw%s.%s==" % (plain, hashlib.md5(plain.encode()).hexdigest()[:6])


def read_token(text):
    try:
        start, turn = map(int, text[4:].split(".")[:2])
    except ValueError:
        raise Failure("invalid", "Invalid Input: pageToken")
    if make_token(start, turn) != text:
        raise Failure("invalid", "Invalid Input: pageToken")
    return start


def as_json(document, status=200):
    return Reply(status, json.dumps(document, ensure_ascii=False).encode())
