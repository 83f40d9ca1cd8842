"""DingTalk as a service on the neutral directory.

Owns the calls of the old API (below /oapi) that a directory reader needs, the
token calls of both APIs (the new one is below /api), what an app may see, and
the errors of both: HTTP 200 with errcode, or a status with code.  Who has left
is in no list.
"""

import collections
import hashlib
import json
import time
from urllib.parse import parse_qsl

from httpd import Reply
from service import Service

ROOT = 1
HOME_SCHOOL = -7
MAX_SIZE = 100
# What bent cursors have on top, so that no two of them are alike.
TURN = 1000000000
ERRORS = {
    -1: "system busy",
    33012: "invalid userid",
    40001: "invalid credential",
    40014: "invalid access_token",
    40035: "invalid parameter",
    40089: "invalid corpid or corpsecret",
    400002: "invalid parameter",
    41001: "access_token is required",
    42001: "access_token expired",
    43002: "POST method is required",
    50002: "user is not in the scope of the app",
    50004: "department is not in the scope of the app",
    60003: "department not found",
    60011: "no permission for this API",
    60020: "access ip not in whitelist",
    60121: "user not found",
    90002: "system calls are limited, please wait",
    90018: "your calls are limited, please wait",
    90020: "your calls of this month are used up",
}
NEW_ERRORS = {
    "invalidClientIdOrSecret": (400, "invalid clientId or clientSecret"),
    "Missingbody": (400, "body is mandatory for this action."),
    "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi":
        (403, "qps limit for appkey and api"),
    "Forbidden.AccessDenied.IpNotInWhiteList":
        (403, "ip not in whitelist, request ip=127.0.0.1"),
    "ServiceUnavailable": (503, "service unavailable"),
}
NAMED = {"busy": -1, "throttle": 90018, "overlap": 90018, "address": 60020}
NEW_NAMED = {"busy": "ServiceUnavailable",
             "throttle": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
             "overlap": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
             "address": "Forbidden.AccessDenied.IpNotInWhiteList"}
BLOCKED = {"status": 1111, "wait": 5, "source": "x5", "punish": "deny",
           "uuid": "0a1b2c3d4e5f"}
TOKEN_ERRORS = ("plain", "wrapped", "camel", "text")


class Failure(Exception):
    """args: errcode, or code of the new API; optionally the text."""


class DingTalk(Service):
    name = "dingtalk"
    prefix = "/dingtalk"
    defaults = {
        "client_id": "dingmock0key00000001",
        "client_secret": "Dt-_s3cr3t.&=+%x",
        "token_lifetime": 7200,
        "token_errors": "plain",
        "scope": [ROOT],
        "authed_users": [],
        "permissions": ["qyapi_get_department_list",
                        "qyapi_get_department_member", "qyapi_get_member",
                        "mobile", "email"],
        "calls_per_second": None,
        "page_size": MAX_SIZE,
        "home_school": False,
        "empty_result": True,
        "as_text": False,
        "state_code": "86",
    }

    def reset(self):
        super().reset()
        self.tokens = {}
        self.token = None
        self.issued = 0
        self.answers = 0
        self.turn = 0
        self.calls = collections.defaultdict(collections.deque)

    def configure(self, changes):
        if changes.get("token_errors", "plain") not in TOKEN_ERRORS:
            raise ValueError("token_errors is one of %s" % (TOKEN_ERRORS,))
        super().configure(changes)

    def expire_tokens(self):
        self.tokens = dict.fromkeys(self.tokens, 0)

    # Replies

    def handle(self, request, path):
        try:
            if path == "/api/v1.0/oauth2/accessToken":
                return answer(self.new_token(request))
            self.count(path)
            if path == "/oapi/gettoken":
                return answer(self.old_token(request))
            self.check_token(request)
            if path == "/oapi/auth/scopes":
                return answer(self.scopes())
            call, permission = CALLS.get(path, (None, None))
            if call is None:
                return Reply(404, b"<html><body>no such call</body></html>",
                             "text/html")
            if request.method != "POST":
                raise Failure(43002)
            if permission not in self.settings["permissions"]:
                raise Failure(60011, "no permission for this API, needs: %s"
                              % permission)
            return answer(self.finish(call(self, read_body(request))))
        except Failure as failure:
            return self.error(request, *failure.args)

    def finish(self, result):
        self.answers += 1
        document = {"errcode": 0, "errmsg": "ok",
                    "request_id": "r%x" % self.answers, "result": result}
        if result is None:
            del document["result"]
        return as_text(document) if self.settings["as_text"] else document

    def error(self, request, what, message=None):
        """Of the API that is asked; what is also "blocked" and
        "blocked_page", which come before any API."""
        self.answers += 1
        if what == "blocked":
            return answer(BLOCKED)
        if what == "blocked_page":
            return Reply(200, b"<!doctype html><html><body>Sorry, you have "
                         b"been blocked.</body></html>", "text/html")
        if request.path.startswith(self.prefix + "/api/"):
            code = NEW_NAMED.get(what, what)
            status, text = NEW_ERRORS.get(code, (400, "failed"))
            return answer({"code": code, "message": message or text,
                           "requestid": "R%X" % self.answers}, status)
        code = NAMED.get(what, what)
        text = message or ERRORS.get(code, "error")
        if code == 60020 and message is None:
            text += ",request ip=%s appKey(%s)" % (
                request.peer, self.settings["client_id"])
        form = self.settings["token_errors"]
        if code in (40014, 42001, 90018, 50004) and form != "plain":
            return answer(self.wrapped(code, text, form))
        return answer({"errcode": code, "errmsg": text,
                       "request_id": "r%x" % self.answers})

    def wrapped(self, code, text, form):
        """As the gateway says it, in one of several spellings."""
        document = {"errcode": 88, "request_id": "r%x" % self.answers,
                    "errmsg": "ding talk error[subcode=%d,submsg=%s]"
                              % (code, text)}
        if form != "text":
            document["sub_code" if form == "wrapped" else "subCode"] = \
                str(code)
            document["sub_msg"] = text
        return document

    def count(self, path):
        """No more calls of one path than the limit in any second."""
        calls, now = self.calls[path], time.monotonic()
        while calls and calls[0] <= now - 1:
            calls.popleft()
        calls.append(now)
        limit = self.settings["calls_per_second"]
        if limit is not None and len(calls) > limit:
            raise Failure(90018)

    # Tokens

    def new_token(self, request):
        kind = request.headers.get("content-type", "").split(";")[0]
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if request.method != "POST" or kind != "application/json" or \
                not isinstance(body, dict):
            raise Failure("Missingbody")
        if body.get("appKey") != self.settings["client_id"] or \
                body.get("appSecret") != self.settings["client_secret"]:
            raise Failure("invalidClientIdOrSecret")
        return {"accessToken": self.issue(),
                "expireIn": self.settings["token_lifetime"]}

    def old_token(self, request):
        query = request.query
        if query.get("appkey") != self.settings["client_id"] or \
                query.get("appsecret") != self.settings["client_secret"]:
            raise Failure(40089)
        return {"errcode": 0, "errmsg": "ok", "access_token": self.issue(),
                "expires_in": self.settings["token_lifetime"]}

    def issue(self):
        """The token that is good, or a new one; asking makes it last."""
        now = time.monotonic()
        if self.tokens.get(self.token, 0) <= now:
            self.issued += 1
            self.token = hashlib.md5(b"dingtalk %d %f"
                                     % (self.issued, now)).hexdigest()
        self.tokens[self.token] = now + self.settings["token_lifetime"]
        return self.token

    def check_token(self, request):
        token = request.query.get("access_token")
        if not token:
            raise Failure(41001)
        if token not in self.tokens:
            raise Failure(40014)
        if self.tokens[token] <= time.monotonic():
            raise Failure(42001)

    # What may be seen

    def visible(self):
        directory = self.directory
        return {d for top in self.settings["scope"]
                if top in directory.departments
                for d in directory.subtree(top)}

    def scopes(self):
        return {"errcode": 0, "errmsg": "ok",
                "auth_user_field": ["name", "jobnumber", "avatar"],
                "condition_field": [],
                "auth_org_scopes": {
                    "authed_user": list(self.settings["authed_users"]),
                    "authed_dept": list(self.settings["scope"])}}

    def department(self, body, default=None):
        """The department that a request names, if it may be seen."""
        ident = number(body.get("dept_id", default), 400002)
        if ident not in self.directory.departments:
            raise Failure(60003)
        if ident not in self.visible():
            raise Failure(50004)
        return self.directory.departments[ident]

    def person(self, body):
        uid = body.get("userid")
        if not uid:
            raise Failure(400002)
        found = self.directory.people.get(uid)
        if found is None:
            raise Failure(60121)
        if found.status == "left":
            raise Failure(33012)
        if uid not in self.settings["authed_users"] and not any(
                m.department in self.visible() for m in found.memberships):
            raise Failure(50002)
        return found

    def members(self, dept):
        return [p for p in self.directory.members.get(dept.id, ())
                if p.status != "left"]

    # Calls

    def listsub(self, body):
        top = self.department(body, ROOT)
        rows = [{"dept_id": d.id, "name": d.name, "parent_id": d.parent,
                 "create_dept_group": True, "auto_add_user": True}
                for d in map(self.directory.departments.get,
                             self.directory.children.get(top.id, ()))]
        if self.settings["home_school"] and top.id == ROOT:
            rows.append({"dept_id": HOME_SCHOOL, "name": "Home and school",
                         "parent_id": ROOT})
        if not rows and not self.settings["empty_result"]:
            return None
        return rows

    def listsubid(self, body):
        """Not limited by the scope of the app."""
        ident = number(body.get("dept_id"), 400002)
        return {"dept_id_list": list(self.directory.children.get(ident, ()))}

    def department_get(self, body):
        dept = self.department(body)
        row = {"dept_id": dept.id, "name": dept.name,
               "parent_id": dept.parent, "order": dept.order,
               "dept_manager_userid_list": list(dept.leaders),
               "org_dept_owner": "nobody", "source_identifier": "",
               "code": "C%d" % dept.id, "create_dept_group": True,
               "auto_add_user": True, "hide_dept": False,
               "outer_dept": False, "outer_permit_depts": [],
               "member_count": len(self.members(dept))}
        if not dept.leaders:
            del row["dept_manager_userid_list"]
        if not dept.parent:
            del row["parent_id"], row["order"]
        return row

    def person_row(self, person, place=None):
        """As user/list of a department, or user/get, has it."""
        row = {
            "userid": person.uid, "unionid": "z" + person.uid,
            "name": person.name, "avatar": person.avatar,
            "state_code": self.settings["state_code"],
            "mobile": person.mobile, "hide_mobile": False,
            "telephone": person.telephone, "job_number": "",
            "title": person.title, "email": person.email,
            "org_email": person.biz_email, "work_place": person.address,
            "remark": "", "extension": extension(person),
            "dept_id_list": [m.department for m in person.memberships],
            "hired_date": 1597573616828, "active": person.status != "inactive",
            "admin": False, "boss": False, "exclusive_account": False,
        }
        if self.settings["home_school"] and ROOT in row["dept_id_list"]:
            row["dept_id_list"].insert(0, HOME_SCHOOL)
        if person.status == "disabled":
            row.update(exclusive_account=True, disable_status=True,
                       login_id=person.uid + "@corp.test",
                       exclusive_account_type="sso")
        if place is None:
            row["leader_in_dept"] = [
                {"dept_id": m.department, "leader": m.leader}
                for m in person.memberships]
            row["role_list"] = [{"id": 100, "name": "Member",
                                 "group_name": "Duty"}]
            row["manager_userid"] = person.managers[0] \
                if person.managers else None
        else:
            row.update(leader=place.leader, dept_order=place.order)
        granted = self.settings["permissions"]
        if "mobile" not in granted:
            row["mobile"] = row["state_code"] = None
        if "email" not in granted:
            for key in ("email", "org_email", "work_place", "remark",
                        "extension"):
                row[key] = None
        return {key: value for key, value in row.items() if value is not None}

    def user_page(self, body):
        """The members of a department that a request asks for."""
        dept = self.department(body)
        cursor = number(body.get("cursor"), 40035)
        size = number(body.get("size"), 40035)
        if cursor < 0 or not 1 <= size <= MAX_SIZE:
            raise Failure(40035)
        start = cursor % TURN
        end = start + min(size, self.settings["page_size"])
        people = self.members(dept)
        page = {"has_more": end < len(people), "list": people[start:end]}
        if page["has_more"]:
            page["next_cursor"] = end
        return dept, page

    def user_list(self, body):
        dept, page = self.user_page(body)
        page["list"] = [
            self.person_row(p, next(m for m in p.memberships
                                    if m.department == dept.id))
            for p in page["list"]]
        return page

    def listsimple(self, body):
        _, page = self.user_page(body)
        page["list"] = [{"userid": p.uid, "name": p.name}
                        for p in page["list"]]
        return page

    def listid(self, body):
        """Not limited by the scope of the app."""
        ident = number(body.get("dept_id"), 400002)
        if ident not in self.directory.departments:
            raise Failure(60003)
        return {"userid_list": [p.uid for p in self.members(
            self.directory.departments[ident])]}

    def user_get(self, body):
        return self.person_row(self.person(body))

    # For faults

    def records_key(self, document):
        return "result" if isinstance(document.get("result"), list) else None

    def bend_cursor(self, request, document, circle):
        page = document.get("result")
        if not isinstance(page, dict) or "has_more" not in page:
            return
        self.turn += 1
        cursor = number(read_body(request).get("cursor"), 40035)
        if circle is None:
            page["next_cursor"] = cursor
        elif not page["has_more"]:
            page["next_cursor"] = TURN * (self.turn % circle if circle
                                          else self.turn)
        page["has_more"] = True


def answer(document, status=200):
    return Reply(status, json.dumps(document, ensure_ascii=False).encode(),
                 "application/json;charset=utf-8")


def read_body(request):
    """The parameters, sent as JSON or as a form."""
    text = request.body.decode("utf-8", "replace")
    kind = request.headers.get("content-type", "").split(";")[0]
    if kind != "application/json":
        return dict(parse_qsl(text))
    try:
        body = json.loads(text)
    except ValueError:
        raise Failure(400002)
    if not isinstance(body, dict):
        raise Failure(400002)
    return body


def number(value, code):
    """Also of a text, as the service takes it; else the failure code."""
    try:
        return int(value)
    except (ValueError, TypeError):
        raise Failure(code)


def extension(person):
    """JSON within a text, as the service has it, and empty where unused."""
    return json.dumps({a["name"]: a["text"] for a in person.attributes
                       if "text" in a}, ensure_ascii=False) \
        if person.attributes else ""


def as_text(value):
    """Numbers and flags as texts, as the examples of the documents have."""
    if isinstance(value, dict):
        return {key: value[key] if key == "errcode" else as_text(value[key])
                for key in value}
    if isinstance(value, list):
        return [as_text(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


CALLS = {
    "/oapi/topapi/v2/department/listsub":
        (DingTalk.listsub, "qyapi_get_department_list"),
    "/oapi/topapi/v2/department/listsubid":
        (DingTalk.listsubid, "qyapi_get_department_list"),
    "/oapi/topapi/v2/department/get":
        (DingTalk.department_get, "qyapi_get_department_list"),
    "/oapi/topapi/v2/user/list":
        (DingTalk.user_list, "qyapi_get_department_member"),
    "/oapi/topapi/user/listsimple":
        (DingTalk.listsimple, "qyapi_get_department_member"),
    "/oapi/topapi/user/listid": (DingTalk.listid, "qyapi_get_member"),
    "/oapi/topapi/v2/user/get": (DingTalk.user_get, "qyapi_get_member"),
}
