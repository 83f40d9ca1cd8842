"""Checks of the DingTalk service."""

import json
from urllib.parse import urlencode

from check_base import Base

CLIENT = "dingmock0key00000001"
SECRET = "Dt-_s3cr3t.&=+%x"
API = "/dingtalk/api/v1.0/oauth2/accessToken"
OLD = "/dingtalk/oapi"
DEPARTMENT = "/topapi/v2/department/"


class DingTalk(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "900")

    def send(self, method, target, body=None, kind="application/json"):
        """Status and document, None where there is none."""
        self.client.request(method, target, body, {"Content-Type": kind})
        response = self.client.getresponse()
        text = response.read()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None

    def log_in(self, **change):
        body = dict({"appKey": CLIENT, "appSecret": SECRET}, **change)
        return self.send("POST", API, json.dumps(body))

    def call(self, path, form=False, **body):
        """A call of the old API; the document."""
        if "token" not in self.tokens:
            self.tokens["token"] = self.log_in()[1]["accessToken"]
        query = urlencode({"access_token": self.tokens["token"]})
        target = "%s%s?%s" % (OLD, path, query)
        if form:
            sent = self.send("POST", target, urlencode(body),
                             "application/x-www-form-urlencoded")
        else:
            sent = self.send("POST", target, json.dumps(body))
        self.assertEqual(sent[0], 200)
        return sent[1]

    def code(self, path, **body):
        return self.call(path, **body)["errcode"]

    def settings(self, **changes):
        self.control(settings={"dingtalk": changes})

    def tree(self, top=1):
        """Ids and rows of all departments below one."""
        found = {}
        for row in self.call(DEPARTMENT + "listsub", dept_id=top)["result"]:
            found[row["dept_id"]] = row
            found.update(self.tree(row["dept_id"]))
        return found

    def members(self, dept, size=100):
        rows, cursor = [], 0
        while cursor is not None:
            page = self.call("/topapi/v2/user/list", dept_id=dept,
                             cursor=cursor, size=size)["result"]
            rows += page["list"]
            self.assertEqual("next_cursor" in page, page["has_more"])
            cursor = page.get("next_cursor")
        return rows

    def test_tokens(self):
        first = self.log_in()[1]
        self.assertEqual(sorted(first), ["accessToken", "expireIn"])
        self.assertEqual(self.log_in()[1], first)
        old = self.raw(OLD + "/gettoken", appkey=CLIENT, appsecret=SECRET)[1]
        self.assertEqual(json.loads(old)["access_token"],
                         first["accessToken"])
        self.control(expire_tokens=True)
        self.assertNotEqual(self.log_in()[1], first)
        self.assertEqual(self.log_in(appSecret="x")[0], 400)
        self.assertEqual(self.log_in(appKey="x")[1]["code"],
                         "invalidClientIdOrSecret")
        form = urlencode({"appKey": CLIENT, "appSecret": SECRET})
        self.assertEqual(self.send("POST", API, form, "text/plain")[1]["code"],
                         "Missingbody")
        old = self.raw(OLD + "/gettoken", appkey=CLIENT, appsecret="x")[1]
        self.assertEqual(json.loads(old)["errcode"], 40089)

    def test_bad_tokens(self):
        self.assertEqual(self.code(DEPARTMENT + "listsub"), 0)
        self.control(expire_tokens=True)
        self.assertEqual(self.code(DEPARTMENT + "listsub"), 42001)
        for form, key in (("wrapped", "sub_code"), ("camel", "subCode"),
                          ("text", None)):
            self.settings(token_errors=form)
            reply = self.call(DEPARTMENT + "listsub")
            self.assertEqual(reply["errcode"], 88)
            self.assertIn("subcode=42001", reply["errmsg"])
            self.assertEqual(reply.get(key), key and "42001")
        self.settings(token_errors="plain")
        self.tokens["token"] = "unknown"
        self.assertEqual(self.code(DEPARTMENT + "listsub"), 40014)
        self.tokens["token"] = ""
        self.assertEqual(self.code(DEPARTMENT + "listsub"), 41001)

    def test_methods_and_permissions(self):
        self.call(DEPARTMENT + "listsub")
        target = OLD + DEPARTMENT + "listsub?access_token="
        self.assertEqual(self.send("GET", target + self.tokens["token"])[1]
                         ["errcode"], 43002)
        self.settings(permissions=["qyapi_get_department_list"])
        reply = self.call("/topapi/v2/user/list", dept_id=1, cursor=0, size=9)
        self.assertEqual(reply["errcode"], 60011)
        self.assertIn("qyapi_get_department_member", reply["errmsg"])
        self.control(faults=[{"kind": "trusted_ip"}])
        reply = self.call(DEPARTMENT + "listsub")
        self.assertEqual(reply["errcode"], 60020)
        self.assertIn("request ip=127.0.0.1 appKey(" + CLIENT,
                      reply["errmsg"])
        self.assertEqual(self.log_in()[0], 403)

    def test_departments(self):
        tree = self.tree()
        self.assertEqual(len(tree), 29)
        self.assertNotIn(1, tree)
        form = self.call(DEPARTMENT + "listsub", form=True, dept_id=1)
        self.assertEqual(form["result"],
                         self.call(DEPARTMENT + "listsub")["result"])
        self.assertEqual(self.code(DEPARTMENT + "listsub", dept_id=999),
                         60003)
        rows = {ident: self.call(DEPARTMENT + "get", dept_id=ident)["result"]
                for ident in [1, *tree]}
        self.assertNotIn("parent_id", rows[1])
        self.assertTrue(all("order" in rows[ident] for ident in tree))
        managers = ["dept_manager_userid_list" in row for row in rows.values()]
        self.assertEqual(set(managers), {True, False})
        leaf = next(ident for ident in tree if not self.tree(ident))
        self.settings(empty_result=False)
        self.assertNotIn("result", self.call(DEPARTMENT + "listsub",
                                             dept_id=leaf))
        self.assertIn("result", self.call(DEPARTMENT + "listsub"))

    def test_home_and_school(self):
        self.settings(home_school=True)
        self.assertIn(-7, [row["dept_id"] for row in self.call(
            DEPARTMENT + "listsub")["result"]])
        self.assertEqual(self.code("/topapi/v2/user/list", dept_id=-7,
                                   cursor=0, size=9), 60003)

    def test_users(self):
        directory = json.loads(self.raw("/_control/directory")[1])
        listed = {}
        for dept in [1, *self.tree()]:
            for row in self.members(dept, 7):
                listed.setdefault(row["userid"], []).append(row)
        people = {p["uid"]: p for p in directory["people"]
                  if p["status"] != "left" and p["memberships"]}
        self.assertEqual(set(listed), set(people))
        for uid, rows in listed.items():
            places = people[uid]["memberships"]
            self.assertEqual(len(rows), len(places))
            self.assertEqual(sorted(row["leader"] for row in rows),
                             sorted(m["leader"] for m in places))
            self.assertEqual(rows[0]["dept_id_list"],
                             [m["department"] for m in places])
            self.assertEqual("disable_status" in rows[0],
                             people[uid]["status"] == "disabled")
        texts = {row["extension"] for rows in listed.values() for row in rows}
        self.assertIn("travel", [json.loads(t)["Hobby"] for t in texts
                                 if "Hobby" in t])
        self.assertIn("", texts)

    def test_pages(self):
        for size, cursor in (101, 0), (0, 0), ("", 0), (5, ""), (5, -1):
            self.assertEqual(self.code("/topapi/v2/user/list", dept_id=1,
                                       cursor=cursor, size=size), 40035)
        self.assertEqual(self.code("/topapi/v2/user/list", cursor=0, size=1),
                         400002)
        simple = self.call("/topapi/user/listsimple", dept_id=1, cursor=0,
                           size=100)["result"]["list"]
        ids = self.call("/topapi/user/listid", dept_id=1)["result"]
        self.assertEqual([row["userid"] for row in simple],
                         ids["userid_list"][:100])

    def test_short_pages(self):
        whole = self.members(1)
        self.settings(page_size=2)
        self.assertEqual(len(self.call("/topapi/v2/user/list", dept_id=1,
                                       cursor=0, size=100)["result"]["list"]),
                         2)
        self.assertEqual(self.members(1), whole)

    def test_bent_cursors(self):
        def cursors(kind, **more):
            self.control(faults=[dict(kind=kind, path="*/user/list", **more)])
            found, cursor = [], 0
            for _ in range(6):
                page = self.call("/topapi/v2/user/list", dept_id=1,
                                 cursor=cursor, size=100)["result"]
                cursor = page["next_cursor"]
                found.append(cursor)
            return found
        self.assertEqual(set(cursors("cursor_repeat")), {0})
        self.assertEqual(len(set(cursors("endless_cursor"))), 6)
        self.assertLess(len(set(cursors("cursor_circle", pages=2))), 5)

    def test_one_user(self):
        uid = self.members(1)[0]["userid"]
        row = self.call("/topapi/v2/user/get", userid=uid)["result"]
        self.assertIn({"dept_id": 1, "leader": row["leader_in_dept"][0]
                       ["leader"]}, row["leader_in_dept"])
        self.assertNotIn("leader", row)
        self.assertEqual(self.code("/topapi/v2/user/get", userid="x"), 60121)
        self.control(edit={"people": {uid: {"status": "left"}}})
        self.assertEqual(self.code("/topapi/v2/user/get", userid=uid), 33012)

    def test_scope(self):
        top = self.call(DEPARTMENT + "listsub")["result"][0]["dept_id"]
        uid = self.members(1)[0]["userid"]
        self.settings(scope=[top])
        scopes = json.loads(self.raw(OLD + "/auth/scopes",
                                     access_token=self.tokens["token"])[1])
        self.assertEqual(scopes["auth_org_scopes"],
                         {"authed_user": [], "authed_dept": [top]})
        self.assertEqual(self.code(DEPARTMENT + "get", dept_id=1), 50004)
        self.assertEqual(self.code(DEPARTMENT + "get", dept_id=top), 0)
        self.assertIn(top, self.call(DEPARTMENT + "listsubid",
                                     dept_id=1)["result"]["dept_id_list"])
        self.settings(scope=[])
        self.assertEqual(self.code("/topapi/v2/user/get", userid=uid), 50002)
        self.settings(authed_users=[uid])
        self.assertEqual(self.code("/topapi/v2/user/get", userid=uid), 0)

    def test_fields(self):
        self.settings(permissions=["qyapi_get_department_list",
                                   "qyapi_get_department_member"])
        for row in self.members(1):
            self.assertFalse({"mobile", "email", "org_email"} & set(row))
        self.settings(as_text=True)
        page = self.call("/topapi/v2/user/list", dept_id=1, cursor=0,
                         size=1)
        self.assertEqual(page["errcode"], 0)
        self.assertEqual(page["result"]["has_more"], "true")

    def test_limits(self):
        self.settings(calls_per_second=1)
        codes = [self.code(DEPARTMENT + "listsub") for _ in range(20)]
        self.assertEqual(codes[0], 0)
        self.assertIn(90018, codes)
        self.assertEqual(self.code(DEPARTMENT + "get", dept_id=1), 0)
        self.settings(calls_per_second=None)
        self.control(faults=[{"kind": "errcode", "code": "blocked"}])
        self.assertEqual(self.call(DEPARTMENT + "get")["status"], 1111)
        self.control(faults=[{"kind": "errcode", "code": "blocked_page"}])
        self.assertIsNone(self.call(DEPARTMENT + "get"))
        self.control(faults=[{"kind": "throttle", "seconds": 0}])
        self.assertEqual(self.log_in()[1]["code"],
                         "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi")
