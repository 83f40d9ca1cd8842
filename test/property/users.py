"""Users of a task: matching, unique values, memberships.  See model.py."""

import itertools

from model import UNIQUE, Illegal, Membership
from task import Desired, Task, listed, refused_value


class FullTask(Task):
    """A task with users."""

    def users(self, incoming, wrong, complete, match_keys):
        changes = self.changes_of("user", incoming, wrong, complete)
        self.recall("user", changes, self.is_concerned)
        self.match(changes, match_keys)
        everybody = self.desire("user", changes)
        self.renounce(everybody)
        everybody = self.settle(everybody, changes)
        for desired in everybody:
            self.write("user", desired)
            self.join(desired)
            self.find_main(desired)
        for desired in everybody:
            if desired.leave == "delete":
                for _, user in self.state.members:
                    self.unlinked += user is desired.row
                self.act(desired.row, "delete")
                self.state.remove(desired.row)
        self.store("user", changes)

    def is_concerned(self, record):
        """By a department that arrives or goes, or by who leads one."""
        return record.uid in self.led or record.row.refers in self.leaving \
            or self.missed("user", record) or any(
            uid in self.arrived for uid, _ in listed(record.data, "departments"))

    # -- matching ---------------------------------------------------------

    def match(self, changes, keys):
        stays = {c.row for c in changes if c.row and not c.gone}
        leaves = {c.record for c in changes if c.gone}
        for change in list(changes):
            if change.row is not None or change.gone:
                continue
            hits = {row for key in keys for row in self.state.rows["user"]
                    if self.is_hit(row, key, change.data.get(key))}
            if not hits:
                continue
            row = min(hits, key=lambda r: r.id)
            taken = row in stays or any(
                r.source == self.source.name and r not in leaves
                for r in self.state.live_records(row))
            if len(hits) > 1 or taken:
                self.errors.append(("user", change.uid, "21000"))
                changes.remove(change)
                continue
            stays.add(row)
            change.row, change.link = row, "matched"

    @staticmethod
    def is_hit(row, key, value):
        if value is None or value == "" or row.values[key] is None:
            return False
        if key == "phone":
            return row.values[key] == value
        return row.values[key].lower() == value.lower()

    # -- unique values ----------------------------------------------------

    def is_leaver(self, row, everybody):
        """Disabled by leaving, now or before, and not back."""
        for desired in everybody:
            if desired.row is row:
                return desired.leave == "disable" or \
                    desired.leave is None and not desired.live and row.off is not None
        return row.off is not None and not self.state.live_records(row)

    def renounce(self, everybody):
        """Who returns does without what is somebody else's by now, and still
        does when looked at again because of others."""
        by_row = {d.row: d for d in everybody}
        for desired in everybody:
            lost = [column for column in UNIQUE if desired.merged.get(column)
                    and any(self.brings_not(change, column, desired)
                            for change in desired.changes)
                    and any(self.keeps(row, column, desired.merged[column],
                                       by_row.get(row), everybody)
                            for row in self.state.rows["user"] if row is not desired.row)]
            for column in lost:
                del desired.merged[column]
            desired.did_without = bool(lost) and any(
                c.was_deleted and not c.gone for c in desired.changes)

    @staticmethod
    def brings_not(change, column, desired):
        return change.was_deleted or change.gone or not change.pushed \
            or change.data.get(column) != desired.merged[column]

    def keeps(self, row, column, value, desired, everybody):
        if row.values[column] != value or self.is_leaver(row, everybody):
            return False
        return desired is None or \
            desired.leave != "delete" and desired.claims()[column] == value

    def outcome(self, accepted, everybody):
        """The unique values that all rows would have: row -> column -> value."""
        values = {row: {c: row.values[c] for c in UNIQUE} for row in self.state.rows["user"]}
        claimed = {}
        for desired in accepted:
            if desired.leave == "delete":
                values.pop(desired.row, None)
            else:
                values[desired.row] = desired.claims()
        for desired in accepted:
            if desired.live:
                for column in UNIQUE:
                    if desired.merged.get(column):
                        claimed[column, desired.merged[column]] = desired.row
        for row, own in values.items():
            for column in UNIQUE:
                claimer = claimed.get((column, own[column]))
                if claimer not in (None, row) and self.is_leaver(row, everybody):
                    own[column] = None
        return values

    @staticmethod
    def is_unique(values):
        for column in UNIQUE:
            held = [own[column] for own in values.values() if own[column] is not None]
            if len(held) != len(set(held)):
                return False
        return True

    def settle(self, everybody, changes):
        """Sets aside whom a type, a check or a unique column refuses."""
        accepted = list(everybody)
        for desired in everybody:
            sqlstate = None if desired.leave or not desired.live else \
                refused_value("user", desired.merged)
            if sqlstate:
                self.set_aside(desired, changes, sqlstate, "user")
                accepted.remove(desired)
        chosen = [d for d in accepted if d.live and self.was_refused(d)]
        for desired in chosen:
            accepted.remove(desired)
        for desired in accepted:
            if desired.did_without:
                uid = [c.uid for c in desired.changes if not c.gone][0]
                self.errors.append(("user", uid, "23505"))
        values = self.outcome(accepted, everybody)
        if not self.is_unique(values):
            raise Illegal("unique values that two rows claim are given to both")
        if chosen:
            self.check_refused(chosen, accepted, everybody)
        for desired in chosen:
            self.set_aside(desired, changes, "23505", "user")
        for row, own in values.items():
            if own != {c: row.values[c] for c in UNIQUE} and self.is_leaver(row, everybody):
                row.values.update(own)
                self.act(row, "update")
        return accepted

    def check_refused(self, chosen, accepted, everybody):
        """No more could have been applied, alone or together."""
        for number in range(1, len(chosen) + 1):
            for more in itertools.combinations(chosen, number):
                if self.is_unique(self.outcome(accepted + list(more), everybody)):
                    raise Illegal("%s refused, although it could be applied"
                                  % ", ".join(d.changes[0].uid for d in more))

    def was_refused(self, desired):
        blamed = sorted(desired.changes, key=lambda c: c.gone)[0]
        return any(kind == "user" and uid == blamed.uid and sqlstate == "23505"
                   and not message.startswith("came back")
                   for kind, uid, sqlstate, message in self.found)

    # -- memberships ------------------------------------------------------

    def asserted(self, desired):
        """What live records say: department -> (source, is_owner), and main."""
        said, main, first = {}, None, None
        for source, data in desired.live:
            own = {}
            for uid, item in listed(data, "departments"):
                department = self.department_of(source.name, uid) if uid else None
                if department is None:
                    continue
                owns = item.get("isOwner") is True or self.leads(source, desired.row, uid, desired)
                own[department] = own.get(department, False) or owns
                first = first or department
                if item.get("isMain") is True:
                    main = main or department
            for department, owns in own.items():
                known = said.get(department)
                said[department] = (known[0] if known else source.name,
                                    owns or (known is not None and known[1]))
        return said, main, first

    def leads(self, source, row, uid, desired):
        record = self.state.records.get((source.name, "department", uid))
        if record is None or record.deleted:
            return False
        names = {name for name, _ in listed(record.data, "owners")}
        for change in desired.changes:
            if source is self.source and change.uid in names:
                return True
        return any(r.row is row and r.source == source.name and r.uid in names
                   for r in self.state.records.values() if r.kind == "user")

    def join(self, desired):
        members = self.state.members
        if desired.leave == "delete":
            return
        said, desired.main, desired.first = self.asserted(desired)
        silent = {source.name for source, data in desired.live if "departments" not in data}
        for (department, user), membership in list(members.items()):
            if user is desired.row and membership.source is not None \
                    and department not in said and membership.source not in silent:
                del members[department, user]
                self.unlinked += 1
        for department, (source, owns) in said.items():
            membership = members.get((department, desired.row))
            if membership is None:
                members[department, desired.row] = Membership(source, owns)
                self.linked += 1
            elif membership.source is not None:
                membership.source, membership.is_owner = source, owns

    def find_main(self, desired):
        row = desired.row
        if desired.leave == "delete":
            return
        if desired.live and not any("departments" in data for _, data in desired.live):
            # nobody says anything: left alone, but looked at when a record went
            if any(change.gone for change in desired.changes) \
                    and row.refers and (row.refers, row) not in self.state.members:
                self.refer(row, None)
            return
        main = desired.main
        if main is None and (row.refers, row) in self.state.members:
            main = row.refers
        self.refer(row, main or desired.first)

    def another_main(self, user):
        """The main department is no more: what the live records say instead, or
        the first of the memberships that they leave alone."""
        desired = Desired(user, [])
        desired.live = sorted(((self.model.sources[r.source], r.data)
                               for r in self.state.live_records(user)),
                              key=lambda pair: pair[0].rank)
        _, main, first = self.asserted(desired)
        silent = {source.name for source, data in desired.live if "departments" not in data}
        left = [department for (department, of), membership in self.state.members.items()
                if of is user and membership.source in silent]
        self.refer(user, main or first or min(left, key=lambda d: d.id, default=None))
