"""Feishu, and Lark, as services on the neutral directory.

Owns the token call and the part of contact v3 that a directory reader needs:
scopes, departments with their children, people by department; what an app may
see, and the fields that its permissions unlock.  The root of the directory is
the company itself, "0", which is in no list.  Who has left is in no list
either, unless told otherwise.
"""

import binascii
import hashlib
import json
import re
import time
from base64 import b64decode, b64encode

from httpd import Reply
from service import Service

API = "/open-apis/contact/v3/"
TOKEN_PATH = "/open-apis/auth/v3/tenant_access_token/internal"
BASE_SCOPE = "contact:contact.base:readonly"
ROOT = 1
COMPANY = "0"
MAX_SIZE = 50
# While a token lives longer than this, the same one is given out.
KEPT = 1800
USER_TYPES = {"user_id": 99992351, "open_id": 99992352, "union_id": 99992353}
DEPARTMENT_TYPES = ("open_department_id", "department_id")
DEPARTMENT_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_@.-]{0,63}")
END_TOKENS = ("empty", "absent", "stale")
LIMIT_REPLIES = ("429", "400", "text")
LEAVERS = ("absent", "resigned", "exited")

# code: HTTP status, msg
ERRORS = {
    2200: (200, "Internal Error"),
    10003: (200, "invalid param"),
    10014: (200, "app secret invalid"),
    40001: (400, "param error"),
    40002: (500, "root department error"),
    40003: (500, "internal error"),
    40004: (403, "no dept authority error"),
    40008: (400, "department info is null"),
    40011: (400, "page size is invalid"),
    40012: (400, "page token is invalid error"),
    40014: (403, "no parent dept authority error"),
    40015: (400, "dept not exist error"),
    41012: (400, "user id invalid error"),
    41050: (403, "no user authority error"),
    43010: (400, "big dept forbid recursion error"),
    99991201: (404, "path not found"),
    99991301: (405, "method not allowed"),
    99991400: (429, "request trigger frequency limit"),
    99991401: (400, "ip 127.0.0.1 is denied by app setting"),
    99991403: (429, "the API calls of this month are used up"),
    99991661: (400, "Missing access token for authorization. Please make a "
                    "request with token attached."),
    99991662: (400, "app is not in use"),
    99991663: (400, "Invalid access token for authorization. Please make a "
                    "request with token attached."),
    99991671: (400, "Invalid access token for authorization. The token must "
                    "start with \"t-\" or \"u-\"."),
    99991672: (400, "Access denied. One of the following scopes is required: "
                    "[%s, contact:contact:readonly_as_app]." % BASE_SCOPE),
    99992351: (400, "The request you send is not a valid {user_id}"),
    99992352: (400, "The request you send is not a valid {open_id}"),
    99992353: (400, "The request you send is not a valid {union_id}"),
    99992357: (400, "The request you send is not a valid {open_department_id} "
                    "or does not exist"),
}
NAMED = {"busy": 40003, "throttle": 99991400, "overlap": 99991400,
         "address": 99991401}

# The keys that an app gets with each permission.
USER_FIELDS = {
    "contact:user.base:readonly": ("name", "en_name", "nickname", "avatar"),
    "contact:user.employee_id:readonly": ("user_id",),
    "contact:user.email:readonly": ("email",),
    "contact:user.phone:readonly": ("mobile", "mobile_visible"),
    "contact:user.gender:readonly": ("gender",),
    "contact:user.department:readonly": ("department_ids", "orders",
                                         "leader_user_id"),
    "contact:user.employee:readonly": (
        "status", "job_title", "employee_no", "employee_type", "join_time",
        "city", "country", "work_station", "custom_attrs", "enterprise_email",
        "is_tenant_manager"),
}
DEPARTMENT_FIELDS = {
    "contact:department.base:readonly": ("name", "i18n_name", "department_id",
                                         "status", "chat_id"),
    "contact:department.organize:readonly": (
        "parent_department_id", "order", "leader_user_id", "leaders",
        "member_count", "primary_member_count"),
}


class Failure(Exception):
    """args: code, optionally the text."""


class Feishu(Service):
    name = "feishu"
    prefix = "/feishu"
    defaults = {
        # departments: those that the app may see with all below, None for the
        # whole company; people: those that it may see besides.
        "apps": {"cli_a1b2c3d4e5f60718": {"secret": "S3cr3t/+&=x"}},
        "withheld": [],
        "token_lifetime": 7200,
        "token_length": 42,
        "token_status": 400,
        "page_size": MAX_SIZE,
        "end_token": "empty",
        "leave_out_items": False,
        "recursion_limit": None,
        "refused": {},
        "deleted_departments": [],
        "company_listed": True,
        "primary": True,
        "leavers": "absent",
        "limit_reply": "429",
        "limit_reset": 1,
        "retry_after": None,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.current = {}
        self.issued = 0
        self.failures = 0
        self.turn = 0
        self.first_names = {}
        self.seen = {}

    def configure(self, changes):
        for key, values in (("end_token", END_TOKENS),
                            ("limit_reply", LIMIT_REPLIES),
                            ("leavers", LEAVERS)):
            if changes.get(key, values[0]) not in values:
                raise ValueError("%s must be one of %s" % (key, values))
        known = {BASE_SCOPE, *USER_FIELDS, *DEPARTMENT_FIELDS}
        if not set(changes.get("withheld", ())) <= known:
            raise ValueError("withheld: one of %s" % sorted(known))
        super().configure(changes)
        self.seen = {}

    def expire_tokens(self):
        self.tokens = {token: (app, 0)
                       for token, (app, _) in self.tokens.items()}

    # Replies

    def handle(self, request, path):
        try:
            if path == TOKEN_PATH:
                return self.as_reply(self.log_in(request))
            app = self.check_token(request)
            if not path.startswith(API):
                raise Failure(99991201)
            if request.method != "GET":
                raise Failure(99991301)
            if BASE_SCOPE in self.settings["withheld"]:
                raise Failure(99991672)
            # parameters of a GET with a body are not looked at
            query = {} if request.body else request.query
            return self.as_reply({
                "code": 0, "msg": "success",
                "data": Call(self, app, query).answer(
                    path[len(API):].split("/"))})
        except Failure as failure:
            return self.error(request, *failure.args)

    def as_reply(self, document, status=200):
        self.turn += 1
        return Reply(status, json.dumps(document, ensure_ascii=False).encode(),
                     "application/json; charset=utf-8",
                     [("X-Tt-Logid", "2026%016d" % self.turn)])

    def error(self, request, what, message=None):
        code = NAMED.get(what, what)
        for_token = request.path.endswith(TOKEN_PATH)
        if what == "busy" and for_token:
            code = 2200
        status, text = ERRORS.get(code, (400, "failed"))
        if code == 99991663:
            status = self.settings["token_status"]
        if for_token and code != 99991400:
            status = 200
        self.failures += 1
        reply = self.as_reply({
            "code": code, "msg": message or text,
            "error": {"log_id": "2026%016d" % self.failures}}, status)
        if code == 99991400:
            self.limit(reply)
        return reply

    def limit(self, reply):
        """What goes with the answer to those who ask too often."""
        settings = self.settings
        if settings["limit_reply"] == "400":
            reply.status = 400
        if settings["limit_reply"] == "text":
            reply.body = b"too many requests"
            reply.headers = [("Content-Type", "text/plain")]
        reply.headers.append(("x-ogw-ratelimit-limit", "100"))
        if settings["limit_reset"] is not None:
            reply.headers.append(("x-ogw-ratelimit-reset",
                                  str(settings["limit_reset"])))
        if settings["retry_after"] is not None:
            reply.headers.append(("Retry-After", settings["retry_after"]))

    # Tokens

    def log_in(self, request):
        try:
            body = json.loads(request.body)
            name, secret = body["app_id"], body["app_secret"]
        except (ValueError, TypeError, KeyError):
            raise Failure(10003)
        if not re.fullmatch(r"cli_[0-9a-f]{16}", str(name)):
            raise Failure(10003)
        if name not in self.settings["apps"]:
            raise Failure(10014, "app id not exists")
        if secret != self.settings["apps"][name]["secret"]:
            raise Failure(10014)
        now = time.monotonic()
        token = self.current.get(name)
        if token is None or self.tokens[token][1] < now + KEPT:
            self.issued += 1
            digest = hashlib.sha512(b"feishu %d %f" % (
                self.issued, time.time())).hexdigest()
            length = self.settings["token_length"]
            token = ("t-" + digest * (length // len(digest) + 1))[:length]
            self.current[name] = token
            self.tokens[token] = (name, now + self.settings["token_lifetime"])
        return {"code": 0, "msg": "ok", "tenant_access_token": token,
                "expire": max(1, round(self.tokens[token][1] - now))}

    def check_token(self, request):
        """The name of the app."""
        text = request.headers.get("authorization", "")
        scheme, _, token = text.partition(" ")
        if scheme != "Bearer" or not token:
            raise Failure(99991661)
        if not token.startswith(("t-", "u-")):
            raise Failure(99991671)
        app, until = self.tokens.get(token, (None, 0))
        if until <= time.monotonic():
            raise Failure(99991663)
        if app not in self.settings["apps"]:
            raise Failure(99991662)
        return app

    # What an app may see

    def visible(self, app):
        """Departments that it may see; the company only with all of them."""
        version, found = self.seen.get(app, (None, None))
        if version != self.directory.version:
            tops = self.settings["apps"][app].get("departments")
            known = self.directory.departments
            found = set(known) if tops is None else {
                d for top in tops if top in known
                for d in self.directory.subtree(top) if d != ROOT}
            self.seen[app] = (self.directory.version, found)
        return found

    def shows(self, app, person):
        extra = self.settings["apps"][app].get("people") or ()
        visible = self.visible(app)
        return person.uid in extra or any(m.department in visible
                                          for m in person.memberships)

    def user_ids(self, app, person):
        """The other two stay when user_id changes; open_id is the app's own."""
        first = self.first_names.setdefault(id(person), (person, person.uid))
        return {"user_id": person.uid,
                "open_id": "ou_" + digest("%s:%s" % (app, first[1])),
                "union_id": "on_" + digest("union:" + first[1])}

    def records_key(self, document):
        """Records are one level below."""
        return None

    def bend_cursor(self, request, document, circle):
        data = document.get("data")
        if not isinstance(data, dict) or "has_more" not in data:
            return
        self.turn += 1
        about = page_subject(request.path[len(self.prefix + API):].split("/"),
                             request.query)
        start = read_page_token(request.query.get("page_token", ""), about)
        if circle is None:
            rest, turn = start, 0
        elif data["has_more"]:
            rest = read_page_token(data["page_token"], about)
            turn = 0 if circle else self.turn
        else:
            rest, turn = 0, self.turn % circle if circle else self.turn
        data["page_token"] = make_page_token(about, rest, turn)
        data["has_more"] = True


class Lark(Feishu):
    """The same for the rest of the world, with apps of its own."""

    name = "lark"
    prefix = "/lark"
    defaults = dict(Feishu.defaults, apps={
        "cli_9f8e7d6c5b4a3210": {"secret": "L4rk-s3cr3t"}})


class Call:
    """One call of an app, with the kinds of ids that it asked for."""

    def __init__(self, service, app, query):
        self.service = service
        self.settings = service.settings
        self.directory = service.directory
        self.app = app
        self.query = query
        self.user_type = query.get("user_id_type", "open_id")
        self.department_type = query.get("department_id_type",
                                         "open_department_id")
        if self.user_type not in USER_TYPES or \
                self.department_type not in DEPARTMENT_TYPES:
            raise Failure(40001)

    def answer(self, words):
        if words == ["scopes"]:
            return self.scopes()
        if words == ["users", "find_by_department"]:
            return self.members(self.query.get("department_id", ""))
        if words[0] == "users" and len(words) == 2:
            return {"user": self.user_row(self.find_person(words[1]))}
        if words[0] == "departments" and len(words) == 2:
            ident = self.find_department(words[1])
            if ident == ROOT:
                raise Failure(40008)
            return {"department": self.department_row(ident)}
        if words[0] == "departments" and words[2:] == ["children"]:
            return self.children(words[1])
        raise Failure(99991201)

    # Ids

    def department_id(self, ident):
        if ident == ROOT or ident not in self.directory.departments:
            return COMPANY
        return open_id(ident) if self.department_type == DEPARTMENT_TYPES[0] \
            else "D%d" % ident

    def find_department(self, text):
        """The department that a call names, if the app may see it."""
        if text == COMPANY:
            ident = ROOT
        elif text.startswith("od-") != (self.department_type ==
                                        DEPARTMENT_TYPES[0]) or \
                not DEPARTMENT_ID.fullmatch(text):
            raise Failure(99992357)
        else:
            ident = next((d for d in self.directory.departments
                          if self.department_id(d) == text), None)
        if ident is None or ident in self.settings["deleted_departments"]:
            raise Failure(40015)
        self.refuse(str(ident))
        if ident not in self.service.visible(self.app):
            raise Failure(40004)
        return ident

    def find_person(self, text):
        people = self.directory.people.values()
        prefix = {"open_id": "ou_", "union_id": "on_"}.get(self.user_type, "")
        if not text.startswith(prefix):
            raise Failure(USER_TYPES[self.user_type])
        person = next((p for p in people if self.user_id(p) == text), None)
        if person is None:
            raise Failure(41012)
        self.refuse(person.uid)
        if not self.service.shows(self.app, person):
            raise Failure(41050)
        return person

    def refuse(self, key):
        """The setting "refused" has codes by department and by person."""
        if key in self.settings["refused"]:
            raise Failure(self.settings["refused"][key])

    def user_id(self, person):
        return self.service.user_ids(self.app, person)[self.user_type]

    def user_id_of(self, uid):
        person = self.directory.people.get(uid)
        return self.user_id(person) if person else None

    # Pages

    def cut(self, rows, subject):
        """The rows of the page that is asked for, and how it goes on."""
        text = self.query.get("page_size", "10")
        if not text.isdigit() or not 1 <= int(text) <= MAX_SIZE:
            raise Failure(40011)
        start = read_page_token(self.query.get("page_token", ""), subject)
        rest = start + min(int(text), self.settings["page_size"])
        data = {"has_more": rest < len(rows)}
        if data["has_more"]:
            data["page_token"] = make_page_token(subject, rest)
        elif self.settings["end_token"] != "absent":
            data["page_token"] = "" if self.settings["end_token"] == "empty" \
                else make_page_token(subject, start)
        return rows[start:rest], data

    def page(self, rows, make_row, words):
        rows, data = self.cut(rows, page_subject(words, self.query))
        if rows or not self.settings["leave_out_items"]:
            data["items"] = [make_row(row) for row in rows]
        return data

    def scopes(self):
        app = self.settings["apps"][self.app]
        tops = app.get("departments")
        people = [self.directory.people[uid] for uid in app.get("people") or ()
                  if uid in self.directory.people]
        if tops is None:
            tops = self.directory.children.get(ROOT, ())
            people = self.listed(ROOT)
        rows = [("department_ids", self.department_id(d)) for d in tops]
        rows += [("user_ids", self.user_id(p)) for p in people]
        rows.append(("group_ids", "g1"))
        rows, data = self.cut(rows, page_subject(["scopes"], self.query))
        for key in "department_ids", "user_ids", "group_ids":
            data[key] = [value for kind, value in rows if kind == key]
        return data

    # Departments

    def children(self, text):
        top = self.find_department(text)
        deep = self.query.get("fetch_child") == "true"
        found = self.directory.subtree(top)[1:] if deep else \
            self.directory.children.get(top, [])
        limit = self.settings["recursion_limit"]
        if deep and limit is not None and len(found) > limit:
            raise Failure(43010)
        return self.page(found, self.department_row,
                         ["departments", text, "children"])

    def department_row(self, ident):
        dept = self.directory.departments[ident]
        leaders = [self.user_id_of(uid) for uid in dept.leaders
                   if uid in self.directory.people]
        members = self.directory.members.get(ident, ())
        row = {
            "name": dept.name,
            "i18n_name": {"zh_cn": "", "ja_jp": "", "en_us": dept.name_en or ""},
            "parent_department_id": self.department_id(dept.parent),
            "department_id": "D%d" % ident,
            "open_department_id": open_id(ident),
            "leader_user_id": leaders[0] if leaders else "",
            "order": str(dept.order), "unit_ids": [], "chat_id": "",
            "member_count": len(members), "primary_member_count": sum(
                p.main_department == ident for p in members),
            "status": {"is_deleted":
                       ident in self.settings["deleted_departments"]},
        }
        if leaders:
            row["leaders"] = [{"leaderType": 1 + (n > 0), "leaderID": leader}
                              for n, leader in enumerate(leaders)]
        return self.granted(row, DEPARTMENT_FIELDS)

    # People

    def listed(self, ident):
        gone = self.settings["leavers"] == "absent"
        return [p for p in self.directory.members.get(ident, ())
                if not (gone and p.status == "left")]

    def members(self, text):
        ident = self.find_department(text)
        return self.page(self.listed(ident), self.user_row,
                         ["users", "find_by_department"])

    def user_row(self, person):
        manager = person.managers[0] if person.managers else None
        row = {
            "name": person.name, "en_name": person.english_name,
            "nickname": person.alias, "email": person.email,
            "enterprise_email": person.biz_email,
            "gender": int(person.gender or 0), "mobile_visible": True,
            "status": self.status(person), "job_title": person.title,
            "leader_user_id": self.user_id_of(manager) or "",
            "city": "", "country": "CN", "work_station": "",
            "join_time": 1615381925, "is_tenant_manager": False,
            "employee_no": "", "employee_type": 1,
            "custom_attrs": attributes(person),
        }
        row.update(self.service.user_ids(self.app, person))
        row.update(self.places(person))
        if person.mobile is not None:
            row["mobile"] = person.mobile if person.mobile[:1] in ("", "+") \
                else "+86" + person.mobile
        if person.avatar is not None:
            row["avatar"] = {"avatar_" + size: person.avatar + "?" + size
                             for size in ("72", "240", "640", "origin")}
        return self.granted(row, USER_FIELDS)

    def status(self, person):
        left = self.settings["leavers"] if person.status == "left" else None
        return {"is_frozen": person.status == "disabled",
                "is_resigned": left == "resigned",
                "is_activated": person.status not in ("inactive", "left"),
                "is_exited": left == "exited",
                "is_unjoin": person.status == "inactive"}

    def places(self, person):
        """Of all departments, those that the app may not see among them."""
        idents, orders = [], []
        for number, place in enumerate(person.memberships):
            main = place.department == person.main_department
            ident = self.department_id(place.department)
            if ident != COMPANY or self.settings["company_listed"]:
                idents.append(ident)
            order = {"department_id": ident, "user_order": place.order,
                     "department_order": 100 * main + 50 - number}
            if self.settings["primary"]:
                order["is_primary_dept"] = main
            orders.append(order)
        return {"department_ids": idents, "orders": orders}

    def granted(self, row, fields):
        hidden = {key for scope in self.settings["withheld"]
                  for key in fields.get(scope, ())}
        return {key: value for key, value in row.items()
                if key not in hidden and value is not None}


def digest(text):
    return hashlib.md5(text.encode()).hexdigest()


def open_id(ident):
    return "od-" + digest("department:%d" % ident)


def attributes(person):
    """Each kind of attribute that a company may define."""
    found = []
    for number, item in enumerate(person.attributes, 1):
        kind, value = "TEXT", {"text": item.get("text", "")}
        if "url" in item:
            kind, value = "HREF", {"text": item["title"], "url": item["url"],
                                   "pc_url": item["url"]}
        found.append({"type": kind, "id": "C-%d" % number, "value": value})
    if found:
        found += [
            {"type": "ENUMERATION", "id": "C-7",
             "value": {"option_id": "edcvfrtg", "option_value": "L"}},
            {"type": "PICTURE_ENUM", "id": "C-8",
             "value": {"option_id": "abc", "name": "cat",
                       "picture_url": "https://img.test/cat"}},
            {"type": "GENERIC_USER", "id": "C-9",
             "value": {"generic_user": {"id": "9b2fabg5", "type": 1}}}]
    return found


def page_subject(words, query):
    """What a page token is good for: this list, of this department."""
    return "/".join(words) + "?" + query.get("department_id", "")


def make_page_token(subject, start, turn=0):
    """Opaque, and with all that must be encoded in an address."""
    plain = b"\xfb\xff\xfe%d.%d." % (start, turn)
    plain += b"%08x" % binascii.crc32(plain + subject.encode())
    # a length that is no multiple of three makes it end with "="
    return b64encode(plain + b" " * ((1 - len(plain)) % 3)).decode()


def read_page_token(text, subject):
    """The first row that a page token stands for."""
    if not text:
        return 0
    try:
        start, turn, _ = b64decode(text, validate=True)[3:].split(b".")
        start, turn = int(start), int(turn)
    except ValueError:
        raise Failure(40012)
    if make_page_token(subject, start, turn) != text:
        raise Failure(40012)
    return start
