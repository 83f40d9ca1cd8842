"""Checks of the Feishu service."""

import json
from urllib.parse import quote, urlencode

from check_base import Base

APP = "cli_a1b2c3d4e5f60718"
SECRET = "S3cr3t/+&=x"
LARK_APP = "cli_9f8e7d6c5b4a3210"
TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
TYPES = {"user_id_type": "user_id",
         "department_id_type": "open_department_id", "page_size": 50}


class Feishu(Base):
    arguments = ("--seed", "1", "--departments", "30", "--users", "250")

    def setUp(self):
        super().setUp()
        self.token = self.log_in()["tenant_access_token"]

    def ask(self, target, method="GET", body=None, prefix="/feishu",
            authorization=None):
        self.client.request(method, prefix + target, body,
                            {} if authorization == "" else
                            {"Authorization": authorization or
                             "Bearer " + self.token})
        self.response = self.client.getresponse()
        text = self.response.read()
        return json.loads(text) if text[:1] == b"{" else text.decode()

    def log_in(self, app=APP, secret=SECRET, **more):
        return self.ask(TOKEN, "POST", json.dumps(
            {"app_id": app, "app_secret": secret}), authorization="", **more)

    def get(self, path, **query):
        return self.ask("/open-apis/contact/v3/%s?%s" % (
            path, urlencode({**TYPES, **query})))

    def code(self, path, **query):
        """Code and HTTP status."""
        return self.get(path, **query)["code"], self.response.status

    def rows(self, path, **query):
        found, more = [], {}
        while True:
            reply = self.get(path, **query, **more)
            self.assertEqual(reply["code"], 0, reply)
            found += reply["data"].get("items", [])
            if not reply["data"]["has_more"]:
                return found
            more["page_token"] = reply["data"]["page_token"]

    def settings(self, **changes):
        self.control(settings={"feishu": changes})

    def departments(self, **query):
        return self.rows("departments/0/children", fetch_child="true", **query)

    def members(self, department, **query):
        return self.rows("users/find_by_department", department_id=department,
                         **query)

    def ident(self, name):
        """A department of the tiny company."""
        return next(row["open_department_id"] for row in self.departments()
                    if row["name"] == name)

    # Tokens

    def test_tokens(self):
        first, again = self.log_in(), self.log_in()
        self.assertEqual(first["tenant_access_token"],
                         again["tenant_access_token"])
        self.assertTrue(0 < again["expire"] <= 7200)
        self.settings(token_lifetime=100, token_length=4096)
        self.control(reset=True)
        self.settings(token_lifetime=100, token_length=4096)
        first, again = self.log_in(), self.log_in()
        self.assertEqual(len(first["tenant_access_token"]), 4096)
        self.assertNotEqual(first["tenant_access_token"],
                            again["tenant_access_token"])
        for reply in first, again:
            self.token = reply["tenant_access_token"]
            self.assertEqual(self.code("scopes"), (0, 200))

    def test_wrong_app(self):
        for app, secret, code, text in (
                (APP, "wrong", 10014, "app secret invalid"),
                (LARK_APP, "L4rk-s3cr3t", 10014, "app id not exists"),
                ("cli_", SECRET, 10003, "invalid param")):
            reply = self.log_in(app, secret)
            self.assertEqual((reply["code"], reply["msg"]), (code, text))
            self.assertEqual(self.response.status, 200)
        self.assertEqual(self.log_in(LARK_APP, "L4rk-s3cr3t",
                                     prefix="/lark")["code"], 0)
        self.assertEqual(self.log_in(prefix="/lark")["msg"],
                         "app id not exists")

    def test_token_refused(self):
        target = "/open-apis/contact/v3/scopes"
        for text, code in (("", 99991661), ("Bearer no", 99991671),
                           ("Bearer t-no", 99991663)):
            self.assertEqual(self.ask(target, authorization=text)["code"],
                             code)
            self.assertEqual(self.response.status, 400)
        self.settings(token_status=401)
        self.control(expire_tokens=True)
        self.assertEqual(self.code("scopes"), (99991663, 401))

    # Departments

    def test_children(self):
        found = self.departments()
        self.assertEqual(len(found), 29)
        direct = self.rows("departments/0/children")
        self.assertEqual({r["parent_department_id"] for r in direct}, {"0"})
        todo, walked = list(direct), []
        while todo:
            row = todo.pop()
            walked.append(row["open_department_id"])
            todo += self.rows("departments/%s/children" % walked[-1])
        self.assertEqual(set(walked), {r["open_department_id"] for r in found})
        self.assertTrue(all(isinstance(r["order"], str) for r in found))
        self.assertIn("4294967295", [r["order"] for r in found])
        leaders = [r["leaders"] for r in found if len(r.get("leaders", ())) > 1]
        self.assertEqual([x["leaderType"] for x in leaders[0]][:2], [1, 2])
        for row in found:
            self.assertEqual(row["leader_user_id"], (row.get("leaders") or [
                {"leaderID": ""}])[0]["leaderID"])

    def test_pages(self):
        for size, code in ((51, 40011), (0, 40011), ("x", 40011), (50, 0)):
            self.assertEqual(self.code("departments/0/children",
                                       page_size=size)[0], code)
        path = "/open-apis/contact/v3/departments/0/children?page_size=4" \
            "&fetch_child=true&page_token="
        token = self.ask(path)["data"]["page_token"]
        self.assertRegex(token, r"^\+//\+.*=$")
        self.assertEqual(self.ask(path + token)["code"], 40012)
        self.assertEqual(self.ask(path + quote(token, safe=""))["code"], 0)
        self.assertEqual(self.ask(path + "made-up")["code"], 40012)
        self.settings(page_size=7)
        self.assertEqual(len(self.departments()), 29)
        self.assertEqual(len(self.get("departments/0/children",
                                      fetch_child="true")["data"]["items"]), 7)

    def test_token_of_another_list(self):
        self.settings(page_size=1)
        crowded = [r["open_department_id"] for r in self.departments()
                   if r["member_count"] > 3][:2]
        token = self.get("users/find_by_department",
                         department_id=crowded[0])["data"]["page_token"]
        self.assertEqual([self.code("users/find_by_department",
                                    department_id=ident, page_token=token)[0]
                          for ident in crowded], [0, 40012])

    def test_ends_of_lists(self):
        self.control(directory="tiny")
        leaf = self.ident("Platform Team")
        seen = []
        for style in "empty", "absent", "stale":
            self.settings(end_token=style, leave_out_items=True)
            data = self.get("departments/%s/children" % leaf)["data"]
            self.assertNotIn("items", data)
            self.assertFalse(data["has_more"])
            seen.append(data.get("page_token"))
        self.assertEqual(seen[:2], ["", None])
        self.assertTrue(seen[2])

    def test_recursion(self):
        self.settings(recursion_limit=3)
        self.assertEqual(self.code("departments/0/children",
                                   fetch_child="true"), (43010, 400))
        self.assertEqual(self.code("departments/0/children"), (0, 200))

    def test_department_ids(self):
        own = self.departments(department_id_type="department_id")
        self.assertIn("D4", [r["department_id"] for r in own])
        self.assertTrue(all(r["open_department_id"].startswith("od-")
                            for r in own))
        for ident, kind, code in (
                ("D4", "open_department_id", 99992357),
                ("D4", "department_id", 0),
                (own[0]["open_department_id"], "department_id", 99992357),
                ("od-gone", "open_department_id", 40015)):
            self.assertEqual(self.code("departments/" + ident,
                                       department_id_type=kind)[0], code)
        self.assertEqual(self.code("departments/0")[0], 40008)

    def test_deleted_and_refused(self):
        self.control(directory="tiny")
        sales, finance = self.ident("Sales"), self.ident("Finance & People")
        self.settings(deleted_departments=[2], refused={"5": 40014,
                                                        "li.na": 41050})
        self.assertEqual([r["name"] for r in self.departments()
                          if r["status"]["is_deleted"]], ["Sales"])
        self.assertEqual(self.code("users/find_by_department",
                                   department_id=sales), (40015, 400))
        self.assertEqual(self.code("users/find_by_department",
                                   department_id=finance), (40014, 403))
        self.assertEqual(self.code("users/li.na"), (41050, 403))

    # Scopes

    def test_whole_company(self):
        data = self.get("scopes")["data"]
        self.assertEqual(
            set(data["department_ids"]),
            {r["open_department_id"] for r
             in self.rows("departments/0/children")})
        self.assertEqual(set(data["user_ids"]),
                         {r["user_id"] for r in self.members("0")})
        found, token = [], ""
        while token is not None:
            data = self.get("scopes", page_size=2, page_token=token)["data"]
            sizes = [len(data[key]) for key in ("department_ids", "user_ids",
                                                "group_ids")]
            self.assertLessEqual(sum(sizes), 2)
            found.append(sizes)
            token = data["page_token"] if data["has_more"] else None
        self.assertGreater(len(found), 2)

    def test_part_of_the_company(self):
        self.control(directory="tiny")
        self.settings(apps={APP: {"secret": SECRET, "departments": [3, 4],
                                  "people": ["tom.becker"]}})
        data = self.get("scopes")["data"]
        engineering, platform = data["department_ids"]
        self.assertEqual(data["user_ids"], ["tom.becker"])
        self.assertEqual(self.code("departments/0/children"), (40004, 403))
        self.assertEqual(self.code("users/find_by_department",
                                   department_id="0"), (40004, 403))
        self.assertEqual([r["open_department_id"] for r in self.rows(
            "departments/%s/children" % engineering)], [platform])
        self.assertEqual(len(self.members(platform)), 4)
        user = self.get("users/tom.becker")["data"]["user"]
        self.assertEqual(user["name"], "Tom Becker")
        self.assertNotIn(user["department_ids"][0], (engineering, platform))
        self.assertEqual(self.code("departments/" + user["department_ids"][0]),
                         (40004, 403))
        self.assertEqual(self.code("users/anna.keller"), (41050, 403))
        self.assertEqual(self.code("users/nobody")[0], 41012)

    def test_permissions(self):
        self.control(directory="tiny")
        for scope, keys in (
                ("contact:user.phone:readonly", ["mobile"]),
                ("contact:user.email:readonly", ["email"]),
                ("contact:user.employee_id:readonly", ["user_id"]),
                ("contact:user.department:readonly", ["orders",
                                                      "department_ids"]),
                ("contact:user.employee:readonly", ["status", "job_title"])):
            sales = self.ident("Sales")
            before = set(self.members(sales)[0])
            self.settings(withheld=[scope])
            self.assertLess(set(keys), before)
            self.assertFalse(set(keys) & set(self.members(sales)[0]))
            self.settings(withheld=[])
        self.settings(withheld=["contact:department.organize:readonly"])
        self.assertFalse(set(self.departments()[0]) & {
            "leaders", "leader_user_id", "parent_department_id", "order"})
        self.settings(withheld=["contact:contact.base:readonly"])
        self.assertEqual(self.code("scopes"), (99991672, 400))

    # People

    def test_members(self):
        units = [r["open_department_id"] for r in self.departments()]
        found = {}
        for unit in ["0"] + units:
            for row in self.members(unit):
                found.setdefault(row["user_id"], []).append((unit, row))
        model = json.loads(self.raw("/_control/directory")[1])["people"]
        self.assertEqual(set(found), {p["uid"] for p in model
                                      if p["status"] != "left"})
        for copies in found.values():
            row = copies[0][1]
            self.assertTrue(all(copy == row for _, copy in copies))
            self.assertEqual(sorted(row["department_ids"]),
                             sorted(unit for unit, _ in copies))
            self.assertLessEqual(sum(o["is_primary_dept"]
                                     for o in row["orders"]), 1)
        self.assertTrue(any(len(copies) == 3 for copies in found.values()))
        rows = [copies[0][1] for copies in found.values()]
        self.assertTrue(any(r.get("mobile", "").startswith("+86")
                            for r in rows))
        self.assertEqual({tuple(v for k, v in sorted(r["status"].items()))
                          for r in rows},
                         {(True, False, False, False, False),
                          (False, False, False, False, True),
                          (True, False, True, False, False)})
        self.assertEqual({a["type"] for r in rows for a in r["custom_attrs"]},
                         {"TEXT", "HREF", "ENUMERATION", "PICTURE_ENUM",
                          "GENERIC_USER"})

    def test_user_ids(self):
        self.control(directory="tiny")
        sales = self.ident("Sales")
        before = self.members(sales)[0]
        self.control(edit={"people": {before["user_id"]: {"uid": "renamed"}}})
        after = self.members(sales)[0]
        self.assertEqual(after["user_id"], "renamed")
        for kind in "open_id", "union_id":
            self.assertEqual(after[kind], before[kind])
            self.assertEqual(self.departments(user_id_type=kind)[0][
                "leader_user_id"], before[kind])
            self.assertEqual(self.code("users/" + before[kind],
                                       user_id_type=kind)[0], 0)
        self.assertEqual(self.code("users/renamed", user_id_type="open_id")[0],
                         99992352)

    def test_leavers_and_orders(self):
        self.control(directory="tiny", edit={
            "people": {"li.na": {"status": "left", "departments": [1, 2]}}})
        sales = self.ident("Sales")
        self.assertNotIn("li.na", [r["user_id"] for r in self.members(sales)])
        for style in "resigned", "exited":
            self.settings(leavers=style, primary=False, company_listed=False)
            row = next(r for r in self.members(sales)
                       if r["user_id"] == "li.na")
            self.assertTrue(row["status"]["is_" + style])
            self.assertEqual(row["department_ids"], [sales])
            self.assertNotIn("is_primary_dept", row["orders"][0])

    # What services do to those who ask

    def test_limits(self):
        fault = {"path": "*/scopes", "kind": "throttle", "seconds": 60}
        for style, status in ("429", 429), ("400", 400), ("text", 429):
            self.settings(limit_reply=style, limit_reset=7, retry_after="9")
            self.control(faults=[fault])
            reply = self.get("scopes")
            self.assertEqual(self.response.status, status)
            self.assertEqual(self.response.getheader("x-ogw-ratelimit-reset"),
                             "7")
            self.assertEqual(self.response.getheader("Retry-After"), "9")
            if style == "text":
                self.assertIsInstance(reply, str)
            else:
                self.assertEqual(reply["code"], 99991400)
        self.settings(limit_reply="429", limit_reset=None, retry_after=None)
        self.control(faults=[fault])
        self.get("scopes")
        self.assertIsNone(self.response.getheader("x-ogw-ratelimit-reset"))

    def test_faults(self):
        for fault, code in (({"kind": "trusted_ip"}, 99991401),
                            ({"kind": "busy"}, 40003),
                            ({"kind": "errcode", "code": 99991403}, 99991403)):
            self.control(faults=[fault])
            self.assertEqual(self.get("scopes")["code"], code)
        self.control(faults=[{"kind": "busy"}])
        self.assertEqual(self.log_in()["code"], 2200)
        self.control(faults=[])
        self.assertEqual(self.ask(
            "/open-apis/contact/v3/departments/0/children?page_size=99",
            body="{}")["code"], 0)
        self.assertEqual(self.ask("/open-apis/contact/v3/scopes", "POST",
                                  "{}")["code"], 99991301)
        self.assertEqual(self.get("nothing")["code"], 99991201)

    def test_bent_tokens(self):
        for kind, pages in ("cursor_repeat", 2), ("cursor_circle", 9), \
                ("endless_cursor", 9):
            self.control(faults=[{"path": "*/children", "kind": kind}])
            more, tokens = {}, []
            for _ in range(pages):
                data = self.get("departments/0/children", page_size=9,
                                fetch_child="true", **more)["data"]
                self.assertTrue(data["has_more"])
                more["page_token"] = data["page_token"]
                tokens.append(data["page_token"])
            self.assertEqual(len(set(tokens)) == len(tokens),
                             kind == "endless_cursor", kind)
