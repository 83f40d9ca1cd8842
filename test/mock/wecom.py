"""WeCom as a service on the neutral directory.

Owns the calls under /cgi-bin that a directory reader needs, what each kind of
secret may read, the tokens, and the error codes.  Failures are HTTP 200 with
errcode and an errmsg that carries a hint and the caller's address.
"""

import binascii
import hashlib
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode

from httpd import Reply
from service import Service

ERRORS = {
    -1: "system busy",
    40001: "invalid credential",
    40013: "invalid corpid",
    40014: "invalid access_token",
    40058: "invalid Request Parameter",
    41001: "access_token missing",
    41002: "corpid missing",
    41004: "corpsecret missing",
    42001: "access_token expired",
    43002: "require POST method",
    45009: "api freq out of limit",
    45033: "api concurrent out of limit",
    48002: "api unauthorized",
    48009: "api forbidden for contact assistant",
    50100: "invalid cursor",
    60003: "department not found",
    60011: "no privilege to access/modify contact/party/agent",
    60020: "not allow to access from your ip",
    60111: "userid not found",
}
NAMED = {"busy": -1, "throttle": 45009, "overlap": 45033, "address": 60020}
STATUS = {"active": 1, "disabled": 2, "inactive": 4, "left": 5}
# The keys that apps created since June 2022 no longer get.
WITHHELD = ("avatar", "thumb_avatar", "gender", "mobile", "email", "biz_mail",
            "qr_code", "address")
MAX_LIMIT = 10000


class Failure(Exception):
    """args: errcode, optionally the text."""


class Access:
    """What one secret may see.

    mode: "app" an old self-built app, "new_app" one without the withheld
    keys, "sync" the contacts assistant from an old address, "ids" from a new
    one.  scope: ids of departments that are visible with all below them, None
    for the whole company.
    """

    MODES = ("app", "new_app", "sync", "ids")

    def __init__(self, secret, mode, scope=None):
        if mode not in self.MODES:
            raise ValueError("mode must be one of %s" % (self.MODES,))
        self.secret = secret
        self.mode = mode
        self.scope = scope
        self.version = None

    def refresh(self, directory):
        """Follow the directory after it changed."""
        if self.version == directory.version:
            return
        self.version = directory.version
        self.texts = {}
        self.visible = set(directory.departments)
        if self.scope is not None:
            self.visible = {d for top in self.scope
                            if top in directory.departments
                            for d in directory.subtree(top)}

    def shows(self, person):
        return self.scope is None or any(m.department in self.visible
                                         for m in person.memberships)


class WeCom(Service):
    name = "wecom"
    prefix = "/wecom"
    defaults = {
        "corpid": "ww0123456789abcdef",
        "credentials": {
            "app-secret": {"mode": "app"},
            "new-app-secret": {"mode": "new_app"},
            "sync-secret": {"mode": "sync"},
            "ids-secret": {"mode": "ids"},
        },
        "token_lifetime": 7200,
        "token_length": 214,
        "wrong_secret_limit": 20,
        "ban_seconds": 3600,
        "vary_case": False,
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.current = {}
        self.issued = 0
        self.wrong = 0
        self.banned_until = 0
        self.failures = 0
        self.cursors = 0
        self.read_credentials()

    def configure(self, changes):
        if "credentials" in changes:
            for secret, entry in changes["credentials"].items():
                Access(secret, **entry)
        super().configure(changes)
        if "credentials" in changes:
            self.read_credentials()
        self.wrong = 0
        self.banned_until = 0

    def read_credentials(self):
        """Tokens of the secrets that stay keep working."""
        self.access = {secret: Access(secret, **entry) for secret, entry
                       in self.settings["credentials"].items()}

    def expire_tokens(self):
        for token, (secret, _) in self.tokens.items():
            self.tokens[token] = (secret, 0)

    def handle(self, request, path):
        call = CALLS.get(path)
        if call is None:
            return Reply(404, b'{"errcode":404,"errmsg":"no such path"}')
        try:
            if call is WeCom.gettoken:
                return answer(self.gettoken(request))
            access = self.check_token(request)
            access.refresh(self.directory)
            return answer(call(self, request, access))
        except Failure as failure:
            return self.error(request, *failure.args)

    def error(self, request, what, message=None):
        code = NAMED.get(what, what)
        self.failures += 1
        if message is None:
            message = ERRORS.get(code, "error")
        digest = hashlib.md5(b"%d" % self.failures).hexdigest()
        text = ("%s, hint: [%d_%d_%s], from ip: %s, more info at "
                "https://open.work.weixin.qq.com/devtool/query?e=%s"
                % (message, time.time(), self.failures, digest, request.peer,
                   code))
        reply = answer({"errcode": code, "errmsg": text})
        reply.headers.append(("Error-Code", str(code)))
        reply.headers.append(("Error-Msg", ERRORS.get(code, "error")))
        return reply

    def gettoken(self, request):
        query, now = request.query, time.monotonic()
        if now < self.banned_until:
            raise Failure(45009)
        if not query.get("corpid"):
            raise Failure(41002)
        if not query.get("corpsecret"):
            raise Failure(41004)
        if query["corpid"] != self.settings["corpid"]:
            self.count_wrong(now)
            raise Failure(40013)
        secret = query["corpsecret"]
        if secret not in self.access:
            self.count_wrong(now)
            raise Failure(40001)
        token = self.current.get(secret)
        if token is None or self.tokens[token][1] <= now:
            self.issued += 1
            digest = hashlib.sha512(("%s %d %f" % (secret, self.issued, now))
                                    .encode()).hexdigest()
            length = self.settings["token_length"]
            token = (digest * (length // len(digest) + 1))[:length]
            self.current[secret] = token
            self.tokens[token] = (secret,
                                  now + self.settings["token_lifetime"])
        left = max(1, round(self.tokens[token][1] - now))
        return {"errcode": 0, "errmsg": "ok", "access_token": token,
                "expires_in": left}

    def count_wrong(self, now):
        self.wrong += 1
        if self.wrong >= self.settings["wrong_secret_limit"]:
            self.wrong = 0
            self.banned_until = now + self.settings["ban_seconds"]

    def check_token(self, request):
        token = request.query.get("access_token")
        if not token:
            raise Failure(41001)
        secret, expires = self.tokens.get(token, (None, 0))
        if secret not in self.access:
            raise Failure(40014)
        if expires <= time.monotonic():
            raise Failure(42001)
        return self.access[secret]

    def check_department(self, access, text):
        """The department that a request names, if it may be seen."""
        try:
            ident = int(text)
        except ValueError:
            raise Failure(40058)
        if ident not in self.directory.departments:
            raise Failure(60003)
        if ident not in access.visible:
            raise Failure(60011)
        return ident

    def department_ids(self, request, access):
        """What a request with or without id covers, in listing order."""
        text = request.query.get("id")
        wanted = access.visible
        if text:
            top = self.check_department(access, text)
            wanted = set(self.directory.subtree(top))
        return [d for d in self.directory.departments if d in wanted]

    def department_row(self, ident, access):
        dept = self.directory.departments[ident]
        people = self.directory.people
        row = {"id": dept.id, "name": dept.name, "name_en": dept.name_en,
               "department_leader": [
                   uid for uid in dept.leaders
                   if uid in people and access.shows(people[uid])],
               "parentid": dept.parent, "order": dept.order}
        if dept.name_en is None:
            del row["name_en"]
        return row

    def department_list(self, request, access):
        refuse_ids_mode(access)
        return ok("department", [self.department_row(d, access) for d
                                 in self.department_ids(request, access)])

    def department_simplelist(self, request, access):
        rows = [self.directory.departments[d]
                for d in self.department_ids(request, access)]
        return ok("department_id", [
            {"id": d.id, "parentid": d.parent, "order": d.order}
            for d in rows])

    def department_get(self, request, access):
        refuse_ids_mode(access)
        ident = self.check_department(access, request.query.get("id", ""))
        return ok("department", self.department_row(ident, access))

    def person_row(self, person, access):
        places = [m for m in person.memberships
                  if m.department in access.visible]
        row = {
            "userid": person.uid, "name": person.name,
            "alias": person.alias, "english_name": person.english_name,
            "department": [m.department for m in places],
            "order": [m.order for m in places],
            "is_leader_in_dept": [int(m.leader) for m in places],
            "main_department": person.main_department,
            "direct_leader": person.managers, "position": person.title,
            "mobile": person.mobile, "gender": person.gender,
            "email": person.email, "biz_mail": person.biz_email,
            "avatar": person.avatar, "telephone": person.telephone,
            "address": person.address, "open_userid": "",
            "status": STATUS[person.status],
            "enable": int(person.status != "disabled"),
            "qr_code": "https://img.test/qr?u=" + person.uid,
            "external_position": "",
            "extattr": {"attrs": [attribute(a) for a in person.attributes]},
        }
        if person.avatar:
            row["thumb_avatar"] = person.avatar[:-1] + "100"
        if access.mode == "new_app":
            for key in WITHHELD:
                row.pop(key, None)
        return {key: value for key, value in row.items() if value is not None}

    def person_text(self, person, access):
        """The row as JSON text, made once per change of the directory."""
        text = access.texts.get(person.uid)
        if text is None:
            text = json.dumps(self.person_row(person, access),
                              ensure_ascii=False)
            access.texts[person.uid] = text
        return text

    def members(self, request, access):
        refuse_ids_mode(access)
        text = request.query.get("department_id")
        if not text:
            raise Failure(40058)
        return self.directory.members.get(
            self.check_department(access, text), ())

    def user_list(self, request, access):
        people = self.members(request, access)
        if self.settings["vary_case"] and \
                int(request.query["department_id"]) % 2:
            return ok("userlist", [
                dict(self.person_row(p, access), userid=p.uid.swapcase())
                for p in people])
        return ('{"errcode":0,"errmsg":"ok","userlist":[%s]}'
                % ",".join(self.person_text(p, access) for p in people))

    def user_simplelist(self, request, access):
        return ok("userlist", [
            {"userid": p.uid, "name": p.name, "open_userid": "",
             "department": [m.department for m in p.memberships
                            if m.department in access.visible]}
            for p in self.members(request, access)])

    def user_get(self, request, access):
        refuse_ids_mode(access)
        uid = request.query.get("userid")
        if not uid:
            raise Failure(40058)
        person = self.directory.find(uid)
        if person is None:
            raise Failure(60111)
        if not access.shows(person):
            raise Failure(60011)
        return dict({"errcode": 0, "errmsg": "ok"},
                    **self.person_row(person, access))

    def user_list_id(self, request, access):
        if access.mode not in ("sync", "ids"):
            raise Failure(48002)
        if request.method != "POST":
            raise Failure(43002)
        start, limit = self.page_wanted(request)
        pairs = [(p.uid, m.department)
                 for p in self.directory.people.values()
                 for m in p.memberships]
        if start > len(pairs):
            raise Failure(50100)
        rest = start + limit
        return {"errcode": 0, "errmsg": "ok",
                "next_cursor": make_cursor(rest) if rest < len(pairs) else "",
                "dept_user": [{"userid": uid, "department": dept}
                              for uid, dept in pairs[start:rest]]}

    def page_wanted(self, request):
        """First row and number of rows that the body asks for."""
        try:
            wanted = json.loads(request.body or b"{}")
            limit = wanted.get("limit", MAX_LIMIT)
        except (ValueError, AttributeError):
            raise Failure(40058, "Warning: wrong json format. "
                          "invalid Request Parameter")
        if not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
            raise Failure(40058)
        return read_cursor(wanted.get("cursor")), limit

    def records_key(self, document):
        for key in ("userlist", "dept_user", "department_id", "department"):
            if "userid" not in document and isinstance(document.get(key),
                                                       list):
                return key
        return None

    def bend_cursor(self, request, document, circle):
        if "next_cursor" not in document:
            return
        self.cursors += 1
        if circle is None:
            start = self.page_wanted(request)[0]
            document["next_cursor"] = make_cursor(start)
        elif not document["next_cursor"]:
            turn = self.cursors % circle if circle else self.cursors
            document["next_cursor"] = make_cursor(0, turn)


def answer(document):
    text = document
    if not isinstance(document, str):
        text = json.dumps(document, ensure_ascii=False)
    return Reply(200, text.encode(), "application/json; charset=UTF-8")


def ok(key, value):
    return {"errcode": 0, "errmsg": "ok", key: value}


def refuse_ids_mode(access):
    if access.mode == "ids":
        raise Failure(48009)


def attribute(item):
    if "url" in item:
        return {"type": 1, "name": item["name"],
                "web": {"url": item["url"], "title": item.get("title", "")}}
    return {"type": 0, "name": item["name"], "value": item["text"],
            "text": {"value": item["text"]}}


def make_cursor(start, turn=0):
    """An opaque cursor that cannot be made up."""
    plain = b"%d.%d" % (start, turn)
    return urlsafe_b64encode(
        b"%s.%08x" % (plain, binascii.crc32(plain))).decode()


def read_cursor(text):
    """The first row that a cursor stands for."""
    if text is None or text == "":
        return 0
    try:
        start, turn, _ = urlsafe_b64decode(text).split(b".")
        start, turn = int(start), int(turn)
    except (ValueError, TypeError):
        raise Failure(50100)
    if make_cursor(start, turn) != text:
        raise Failure(50100)
    return start


CALLS = {
    "/cgi-bin/gettoken": WeCom.gettoken,
    "/cgi-bin/department/list": WeCom.department_list,
    "/cgi-bin/department/simplelist": WeCom.department_simplelist,
    "/cgi-bin/department/get": WeCom.department_get,
    "/cgi-bin/user/list": WeCom.user_list,
    "/cgi-bin/user/simplelist": WeCom.user_simplelist,
    "/cgi-bin/user/get": WeCom.user_get,
    "/cgi-bin/user/list_id": WeCom.user_list_id,
}
