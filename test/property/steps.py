"""The steps of a sequence, as they change the model's state: see model.py."""

import copy

from model import UNIQUE, Membership, Row, State
from users import FullTask


class Model:
    def __init__(self, sources, switches):
        self.switches = switches
        self.sources = {s.name: s for s in sources}
        for rank, source in enumerate(sources):
            source.rank = (source.priority, rank)
        self.state = State()
        self.last = None                # states before and after the last task

    # -- by hand ----------------------------------------------------------

    def find(self, reference):
        """The row that a step by hand is about, or None."""
        if reference[0] == "hand":
            for row in self.state.rows[reference[1]]:
                if row.hand == reference[2]:
                    return row
            return None
        record = self.state.records.get(reference[1:])
        return record.row if record and record.row and record.row.there else None

    def is_taken(self, values, except_row=None):
        return any(values.get(c) is not None and row.values[c] == values[c]
                   for row in self.state.rows["user"] if row is not except_row
                   for c in UNIQUE)

    def by_hand(self, step):
        self.last = None
        getattr(self, "hand_" + step["what"])(step)

    def hand_insert(self, step):
        values = step["values"]
        kind = step["kind"]
        if self.find(("hand", kind, step["label"])) or kind == "user" and self.is_taken(values):
            return
        row = Row(kind, hand=step["label"])
        for name, value in values.items():
            if name in row.values:
                row.values[name] = value
            else:
                setattr(row, name, value)
        self.state.rows[kind].append(row)

    def hand_update(self, step):
        row = self.find(step["row"])
        if row is None or row.kind == "user" and self.is_taken(step["values"], row):
            return
        for name, value in step["values"].items():
            if name in row.values:
                row.values[name] = value
            else:
                setattr(row, name, value)

    def hand_delete(self, step):
        row = self.find(step["row"])
        if row is None:
            return
        if row.kind == "department" and row.refers:
            row.refers.loose.add("is_leaf")
        self.state.remove(row)

    def hand_join(self, step):
        department, user = self.find(step["department"]), self.find(step["user"])
        if department and user and (department, user) not in self.state.members:
            self.state.members[department, user] = Membership(None, step["is_owner"])

    def hand_part(self, step):
        department, user = self.find(step["department"]), self.find(step["user"])
        self.state.members.pop((department, user), None)

    def is_undecided(self, department, user, membership):
        """Whether the model does not tell who owns."""
        if self.switches["owners_of_silent"] or membership.source is None:
            return False
        return any(r.source == membership.source and not r.data.get("departments")
                   for r in self.state.live_records(user))

    # -- tasks ------------------------------------------------------------

    def push(self, step, found):
        """Returns the task."""
        source = self.sources[step["source"]]
        before = copy.deepcopy(self.state)
        task = FullTask(self, source, found, self.switches)
        incoming, wrong = task.collect(step["type"], step["records"])
        key = step["match_key"]
        keys = [key] if key else source.match_keys
        if step["type"] == "department":
            task.departments(incoming, wrong, False)
            task.users({}, [], False, keys)
        else:
            task.users(incoming, wrong, False, keys)
        task.close_departments()
        self.last = (before, self.state)
        return task

    def sync(self, step, found):
        """Returns the task, or None where the read counts as failed."""
        source = self.sources[step["source"]]
        task = FullTask(self, source, found, self.switches)
        departments = task.collect("department", step["departments"])
        users = task.collect("user", step["users"])
        for kind, (incoming, _) in (("department", departments), ("user", users)):
            if not incoming and any(r.source == source.name and r.kind == kind and not r.deleted
                                    for r in self.state.records.values()):
                self.last = None
                return None
        before = copy.deepcopy(self.state)
        task.departments(*departments, True)
        task.users(*users, True, source.match_keys)
        task.close_departments()
        self.last = (before, self.state)
        return task

    def undo(self):
        """Right after a task: everything is as it was before, ids too."""
        before, after = self.last
        after = copy.deepcopy(after)
        self.state = copy.deepcopy(before)
        self.last = (after, self.state)
