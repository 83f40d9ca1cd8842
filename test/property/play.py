"""Plays a sequence of steps on a database and in the model, side by side."""

import copy
import json

from compare import EMPTY, FOUND, VERSIONS, check_changes, compare
from model import PREPARED, Enough, Illegal
from sequence import source_sql, step_sql
from steps import Model
from task import uid_of


# how often a sequence that failed is played again to make it shorter
ATTEMPTS = 250


class Difference(Exception):
    """The database is not what the model says."""


class Play:
    def __init__(self, database, sources, switches):
        self.database = database
        self.sources = sources
        self.switches = switches
        self.model = None
        self.clean = True
        self.seen = EMPTY               # what the database held after the last step

    def report(self, seed, steps):
        """None where all went well, else what did not, for people."""
        number, told = self.attempt(steps)
        if told is None:
            return None
        steps = steps[:number + 1]
        steps, told = self.shrink(steps, told)
        return "seed %d: %s\nafter\n%s" % (seed, told, self.script(steps))

    def shrink(self, steps, told):
        """Leaves out steps, and records, that it takes not to go wrong."""
        i = attempts = 0
        while i < len(steps):
            for fewer in self.without(steps, i):
                attempts += 1
                if attempts > ATTEMPTS:
                    return steps, told
                number, other = self.attempt(fewer)
                if other is not None:
                    steps, told = fewer[:number + 1], other
                    break
            else:
                i += 1
        return steps, told

    @staticmethod
    def without(steps, i):
        yield steps[:i] + steps[i + 1:]
        step = steps[i]
        for key in ("records", "users", "departments"):
            of_step = step.get(key)
            if not isinstance(of_step, list):
                continue
            for j, record in enumerate(of_step):
                if len(of_step) > 1:
                    yield [*steps[:i], dict(step, **{key: of_step[:j] + of_step[j + 1:]}),
                           *steps[i + 1:]]
                for name in record if isinstance(record, dict) else ():
                    if name != "uid":
                        smaller = {k: v for k, v in record.items() if k != name}
                        yield [*steps[:i],
                               dict(step, **{key: of_step[:j] + [smaller] + of_step[j + 1:]}),
                               *steps[i + 1:]]
        if step.get("repeat"):
            yield [*steps[:i], dict(step, repeat=False), *steps[i + 1:]]

    def script(self, steps):
        lines = [PREPARED, "SELECT uds_create_source('hr', 'push'), uds_create_source('it', 'push');"]
        lines += [source_sql(s) for s in self.sources]
        for step in steps:
            if step["step"] == "sync":
                lines.append("-- the source shows departments %s and users %s" % (
                    json.dumps(step["departments"]), json.dumps(step["users"])))
            lines += [step_sql(step)] * (2 if step.get("repeat") else 1)
        return "\n".join(lines)

    # -- playing ----------------------------------------------------------

    def attempt(self, steps):
        """(number of the step that went wrong, what did), or (None, None)."""
        self.database.wipe()
        self.model = Model(copy.deepcopy(self.sources), self.switches)
        self.clean = True
        self.seen = EMPTY
        trouble = [line for source in self.sources
                   for line in self.database.ask(source_sql(source)) if line]
        if trouble:
            return 0, "\n".join(trouble)
        for number, step in enumerate(steps):
            try:
                task = self.play(step)
                if step.get("repeat") and task is not None and not task.errors:
                    self.play_again(step)
            except (Difference, Illegal) as difference:
                return number, str(difference)
            except Enough:
                return None, None
        return None, None

    def play(self, step):
        return getattr(self, "play_" + step["step"])(step)

    def ask(self, sql):
        """The lines a statement gave, and what the database holds then."""
        lines = self.database.ask(sql + FOUND)
        try:
            return lines[:-1], json.loads(lines[-1])
        except (IndexError, ValueError):
            raise Difference("unexpected: " + "\n".join(lines)) from None

    def check(self, found, task=None):
        differences = compare(self.model, found, task, self.clean) + self.check_changes(found)
        self.seen = found
        if differences:
            raise Difference("\n".join(differences))

    def check_changes(self, found):
        if found["task"] is None or \
                self.seen["task"] and found["task"]["id"] == self.seen["task"]["id"]:
            return []
        return check_changes(self.seen, found)

    def play_push(self, step):
        lines, found = self.ask(step_sql(step))
        self.check_single(found, {step["type"]: step["records"]})
        task = self.model.push(step, found["errors"])
        self.check(found, task)
        if len(lines) != 1 or not lines[0].startswith("{"):
            raise Difference("the reply is " + "\n".join(lines))
        self.check_reply(json.loads(lines[0]), step, task)
        return task

    def check_single(self, found, records):
        """A record has one error row at most."""
        errors = [(kind, uid) for kind, uid, *_ in found["errors"] if uid is not None]
        for kind, uid in errors:
            given = sum(1 for r in records.get(kind, ())
                        if isinstance(r, dict) and uid_of(r) == uid)
            if errors.count((kind, uid)) > max(1, given):
                raise Difference("two error rows for one record: %s" % found["errors"])

    @staticmethod
    def check_reply(reply, step, task):
        count = reply["result"][0]["detail"]["count"]
        failed = sum(1 for kind, _, _ in task.errors if kind == step["type"])
        expected = {"all": len(step["records"]), "failed": failed,
                    "success": len(step["records"]) - failed}
        if count != expected:
            raise Difference("count of the reply: expected %s, found %s" % (expected, count))

    def play_sync(self, step):
        self.database.directory.pages.update({"/departments": step["departments"],
                                              "/users": step["users"]})
        lines, found = self.ask(step_sql(step))
        self.check_single(found, {"user": step["users"], "department": step["departments"]})
        task = self.model.sync(step, found["errors"])
        if task is None:
            if found["task"]["status"] != "failed":
                raise Difference("expected a failed read, found %s" % found["task"]["status"])
        elif any("ERROR" in line for line in lines):
            raise Difference("\n".join(lines))
        self.check(found, task)
        return task

    def play_undo_earlier(self, step):
        """Undo of a task that others followed: it tells what it does."""
        lines, found = self.ask(step_sql(step))
        wrong = [line for line in lines if "ERROR" in line]
        wrong += self.check_changes(found)
        if self.clean:
            wrong += found["orphans"]
        if wrong:
            raise Difference("\n".join(wrong))
        raise Enough

    def play_undo(self, step):
        if self.model.last is None:
            return
        lines, found = self.ask(step_sql(step))
        if not any("ERROR" in line for line in lines):
            self.model.undo()
        elif not any("there are no changes of it" in line for line in lines):
            raise Difference("\n".join(lines))
        self.check(found)

    def play_by_hand(self, step):
        lines, found = self.ask(step_sql(step))
        if lines:
            raise Difference("\n".join(lines))
        self.clean = self.clean and step["what"] != "delete"
        self.model.by_hand(step)
        self.check(found)

    def play_again(self, step):
        """The same once more: nothing is written, if all was taken."""
        before = self.database.ask(VERSIONS)
        self.play(step)
        after = self.database.ask(VERSIONS)
        if before != after:
            raise Difference("the same once more wrote rows: %s, before %s" % (after, before))
