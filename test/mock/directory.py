"""A company's directory, free of any service's wording.

Owns the model (departments, people, their memberships), the seeded generator
that makes a directory of any size, the small readable one for demonstrations,
and the changes that may be made to it later.  Services put their own formats
on top and never change the model themselves.

The same seed and sizes give the same directory with every Python version:
only random.Random.random() is used, whose sequence is guaranteed.
"""

import itertools
import random
from dataclasses import asdict, dataclass, field
from typing import Optional

ROOT = 1
MAX_DEPTH = 6
MAX_ORDER = 4294967295
STATUSES = ("active", "disabled", "inactive", "left")

# No two states of any directory share a version.
versions = itertools.count(1)


@dataclass
class Membership:
    department: int
    leader: bool = False
    order: int = 0


@dataclass
class Department:
    """parent is 0 for the root; leaders are uids, members or not."""

    id: int
    parent: int
    name: str
    name_en: Optional[str] = None
    order: int = 100000000
    leaders: list = field(default_factory=list)


@dataclass
class Person:
    """None means that the key is missing, "" that it is there and empty."""

    uid: str
    name: str
    memberships: list = field(default_factory=list)
    main_department: Optional[int] = None
    title: Optional[str] = ""
    mobile: Optional[str] = None
    email: Optional[str] = None
    biz_email: Optional[str] = None
    gender: Optional[str] = "0"
    avatar: Optional[str] = None
    alias: Optional[str] = ""
    english_name: Optional[str] = None
    telephone: Optional[str] = ""
    address: Optional[str] = None
    managers: list = field(default_factory=list)
    status: str = "active"
    attributes: list = field(default_factory=list)


class Dice:
    """Seeded choices that do not depend on the Python version."""

    def __init__(self, seed):
        self.random = random.Random(str(seed)).random

    def below(self, count):
        return int(self.random() * count)

    def chance(self, share):
        return self.random() < share

    def pick(self, items):
        return items[int(self.random() * len(items))]

    def some(self, items, count):
        """count different items in the order drawn."""
        items = list(items)
        count = min(count, len(items))
        for i in range(count):
            j = i + self.below(len(items) - i)
            items[i], items[j] = items[j], items[i]
        return items[:count]


class Directory:
    """departments by id and people by uid, both in listing order."""

    def __init__(self, departments=(), people=()):
        self.departments = {d.id: d for d in departments}
        self.people = {p.uid: p for p in people}
        self.serial = len(self.people)
        self.touch()

    def touch(self):
        """Build the indexes again; call it after every change."""
        self.version = next(versions)
        self.children = {}
        for dept in self.departments.values():
            self.children.setdefault(dept.parent, []).append(dept.id)
        self.members = {}
        for person in self.people.values():
            for place in person.memberships:
                self.members.setdefault(place.department, []).append(person)
        self.folded = {uid.lower(): uid for uid in self.people}

    def find(self, uid):
        """The person with that uid, ignoring case, or None."""
        return self.people.get(self.folded.get(uid.lower()))

    def subtree(self, top):
        """Ids of a department and of all below it."""
        found, todo = [], [top]
        while todo:
            current = todo.pop()
            found.append(current)
            todo.extend(reversed(self.children.get(current, ())))
        return found

    def depth(self, ident):
        """1 for the root."""
        depth = 0
        while ident in self.departments:
            depth += 1
            ident = self.departments[ident].parent
        return depth

    def height(self, ident):
        below = [self.height(child) for child in self.children.get(ident, ())]
        return 1 + max(below, default=0)

    def remove_person(self, uid):
        del self.people[uid]
        for dept in self.departments.values():
            if uid in dept.leaders:
                dept.leaders.remove(uid)

    def remove_department(self, ident):
        """Its children move up, its memberships go."""
        gone = self.departments.pop(ident)
        for dept in self.departments.values():
            if dept.parent == ident:
                dept.parent = gone.parent
        for person in self.people.values():
            person.memberships = [m for m in person.memberships
                                  if m.department != ident]

    def rename_person(self, uid, new):
        self.people = {(new if key == uid else key): person
                       for key, person in self.people.items()}
        self.people[new].uid = new
        for dept in self.departments.values():
            dept.leaders = [new if x == uid else x for x in dept.leaders]

    def edit(self, people=None, departments=None):
        """Set single people and departments: null removes, fields change.

        A person's "departments" is a list of ids or of
        {"department", "leader", "order"}; a new "uid" renames.
        """
        for ident, fields in (departments or {}).items():
            ident = int(ident)
            if fields is None:
                self.remove_department(ident)
            else:
                dept = self.departments.setdefault(
                    ident, Department(ident, ROOT, "Department %d" % ident))
                set_fields(dept, fields)
        for uid, fields in (people or {}).items():
            if fields is None:
                self.remove_person(uid)
                continue
            fields = dict(fields)
            person = self.people.setdefault(uid, Person(uid, uid))
            if "departments" in fields:
                person.memberships = [
                    Membership(**m) if isinstance(m, dict) else Membership(m)
                    for m in fields.pop("departments")]
            new = fields.pop("uid", uid)
            set_fields(person, fields)
            if new != uid:
                self.rename_person(uid, new)
        self.touch()

    def mutate(self, seed=1, percent=10):
        """Change, remove and add people, move departments; says which."""
        return Mutation(self, seed, percent).run()

    def as_dict(self):
        return {"departments": [asdict(d) for d in self.departments.values()],
                "people": [asdict(p) for p in self.people.values()]}


def set_fields(item, fields):
    for key, value in fields.items():
        if not hasattr(item, key):
            raise ValueError("unknown field %r" % key)
        if key == "status" and value not in STATUSES:
            raise ValueError("status must be one of %s" % (STATUSES,))
        setattr(item, key, value)


GIVEN = ("Wei", "Fang", "Na", "Min", "Jing", "Anna", "Björn", "Chloé", "Đặng",
         "Emeka", "Farah", "Goran", "Hana", "Ivo", "Jürgen", "Łukasz",
         "Ólafur", "Priya", "Søren", "Zoë")
FAMILY = ("Zhang", "Wang", "Li", "Zhao", "Chen", "O'Neill", "Müller", "García",
          "van der Berg", "Nguyễn", "Smith-Jones", "Öztürk", "Ivanova", "Kaya",
          "Sato", "Brown")
CJK_NAMES = ("张伟", "王芳", "李娜", "赵敏", "陈静", "欧阳修文", "佐藤花子",
             "김민수")
LOGINS = ("wei", "Fang", "NA", "min", "jIng", "Anna", "bjorn", "Chloe",
          "farah", "Goran", "HANA", "ivo", "lukasz", "PriYa")
TITLES = ("Engineer", "Senior Engineer", "Accountant", "Sales manager",
          "工程师", "Head of \"Special\" Projects", "R&D / QA", "",
          "Büroleitung", "客户经理")
UNITS = ("Sales", "Engineering", "Finance", "People", "Support", "Logistics",
         "Legal", "Design", "Quality", "Research", "研发中心", "市场部",
         "财务部", "人力资源部")
PLACES = ("North", "South", "Shanghai", "广州", "Berlin", "Online", "Overseas",
          "Plant 2")
ODD_UNITS = ("O'Brien & \"Söhne\"", "🚀 Rockets 👩‍🚀", "研发“特别”项目组",
             "back\\slash/slash", "50% off %s %n", "  spaces around  ",
             "<b>bold</b> & co;", "'; DROP TABLE users; --", "قسم المبيعات",
             "two\nlines\tand a tab", "{braces} {{twice}}",
             "long " + "é" * 123, "e\u0301 decomposed", "null")
ORDERS = (0, 1, 40, 100000000, 100000000, 2147483648, 4294967294, MAX_ORDER)


def new_person(dice, serial, places):
    """Person number serial; places are the department ids to draw from."""
    login = "%s%s%d" % (dice.pick(LOGINS), dice.pick(("", "_", ".", "-")),
                        serial)
    if dice.chance(0.01):
        login = "%s@corp.test" % login
    if dice.chance(0.005):
        login = login.ljust(63, "x") + "Y"
    if dice.chance(0.3):
        name = dice.pick(CJK_NAMES)
    else:
        name = "%s %s" % (dice.pick(GIVEN), dice.pick(FAMILY))
    if dice.chance(0.01):
        name = dice.pick(("Robert\\'); --", "🐼 " + name, name * 8, " " + name))
    draw = dice.random()
    count = 1 if draw < 0.7 else 2 if draw < 0.93 else 3
    chosen = []
    for _ in range(count):
        place = dice.pick(places)
        if place not in chosen:
            chosen.append(place)
    draw = dice.random()
    status = ("active" if draw < 0.9 else "inactive" if draw < 0.95
              else "disabled" if draw < 0.98 else "left")
    person = Person(login, name, title=dice.pick(TITLES), status=status)
    person.memberships = [Membership(d, dice.chance(0.06), dice.pick(ORDERS))
                          for d in chosen]
    person.main_department = draw_main(dice, chosen, places)
    draw_contact(dice, person, serial)
    draw_details(dice, person, serial)
    return person


def draw_main(dice, chosen, places):
    draw = dice.random()
    if draw < 0.75:
        return chosen[0]
    if draw < 0.92:
        return dice.pick(chosen)
    if draw < 0.96:
        return dice.pick(places)
    return 0 if draw < 0.98 else None


def phone(dice, serial):
    digits = "13%09d" % serial
    draw = dice.random()
    if draw < 0.7:
        return digits
    if draw < 0.8:
        return "%s %s %s" % (digits[:3], digits[3:7], digits[7:])
    if draw < 0.9:
        return "%s-%s-%s" % (digits[:3], digits[3:7], digits[7:])
    return "+86 " + digits if draw < 0.95 else "+86" + digits


def draw_contact(dice, person, serial):
    draw = dice.random()
    if draw < 0.85:
        person.mobile = phone(dice, serial)
    elif draw < 0.93:
        person.mobile = ""
    draw = dice.random()
    if draw < 0.8:
        person.email = "%s%d@%s" % (dice.pick(LOGINS), serial, dice.pick(
            ("mail.test", "Example.TEST", "sub.example.test")))
    elif draw < 0.92:
        person.email = ""
    draw = dice.random()
    if draw < 0.6:
        person.biz_email = "p%d@corp.test" % serial
    elif draw < 0.9:
        person.biz_email = ""


def draw_details(dice, person, serial):
    person.gender = dice.pick(("0", "1", "2"))
    if dice.chance(0.8):
        person.avatar = "https://img.test/avatar/%d/0" % serial
    if dice.chance(0.3):
        person.alias = dice.pick(GIVEN).lower()
    if dice.chance(0.3):
        person.english_name = dice.pick(("", "Jack", "Grace \"Amazing\""))
    if dice.chance(0.3):
        person.telephone = "020-%d" % (1000 + serial)
    if dice.chance(0.2):
        person.address = "1 Main Street\nTown"
    if dice.chance(0.25):
        person.attributes.append(
            {"name": "Hobby", "text": dice.pick(("travel", "棋", ""))})
    if dice.chance(0.1):
        person.attributes.append(
            {"name": "Card", "url": "https://example.test/?a=1&b=%d" % serial,
             "title": "Home"})


def new_departments(dice, count):
    """A tree of count departments, at most MAX_DEPTH deep."""
    made = [Department(ROOT, 0, "Example Ltd", "")]
    depth = {ROOT: 1}
    open_ids = [ROOT]
    for number in range(2, count + 1):
        # Some ids sit at the upper end of a signed 32-bit integer.
        ident = 2147483647 - number if number % 97 == 0 else number
        parent = dice.pick(open_ids)
        if dice.chance(0.06) or number == 3:
            name = ODD_UNITS[number % len(ODD_UNITS)]
        else:
            name = "%s %s" % (dice.pick(UNITS), dice.pick(PLACES))
        made.append(Department(ident, parent, name,
                               dice.pick((None, "", "Unit %d" % number)),
                               dice.pick(ORDERS)))
        depth[ident] = depth[parent] + 1
        if depth[ident] < MAX_DEPTH:
            open_ids.append(ident)
    # Children may be listed before their parents.
    return dice.some(made, len(made))


def generate(seed=1, departments=20, users=200):
    """The directory that belongs to these three numbers."""
    if departments < 1 or users < 0:
        raise ValueError("departments must be at least 1, users at least 0")
    dice = Dice("directory:%s:%d:%d" % (seed, departments, users))
    units = new_departments(dice, departments)
    ids = sorted(d.id for d in units)
    staffed = [i for i in ids if dice.chance(0.9)] or ids
    people = [new_person(dice, n, staffed) for n in range(1, users + 1)]
    made = Directory(units, people)
    for unit in units:
        for person in made.members.get(unit.id, ()):
            if any(m.leader and m.department == unit.id
                   for m in person.memberships):
                unit.leaders.append(person.uid)
        if people and dice.chance(0.05):
            other = dice.pick(people).uid
            if other not in unit.leaders:
                unit.leaders.append(other)
    for person in people:
        if dice.chance(0.3):
            person.managers = [dice.pick(people).uid]
    return made


class Mutation:
    """One deterministic round of changes to a directory."""

    def __init__(self, directory, seed, percent):
        self.directory = directory
        self.dice = Dice("mutate:%s:%s" % (seed, percent))
        self.percent = percent
        self.places = sorted(directory.departments)

    def share(self, count, weight):
        """How many of count, at least one where percent is not 0."""
        if not self.percent or not count:
            return 0
        return max(1, round(count * self.percent / 100 * weight))

    def run(self):
        directory = self.directory
        total = len(directory.people)
        leaving = self.share(total, 0.25)
        hit = self.dice.some(directory.people,
                             leaving + self.share(total, 0.75))
        removed, changed = hit[:leaving], hit[leaving:]
        for uid in removed:
            directory.remove_person(uid)
        for uid in changed:
            self.change(directory.people[uid])
        added = []
        for _ in range(self.share(total, 0.25)):
            directory.serial += 1
            person = new_person(self.dice, directory.serial, self.places)
            directory.people[person.uid] = person
            added.append(person.uid)
        directory.touch()
        moved = self.move_departments()
        return {"changed": changed, "removed": removed, "added": added,
                "moved": moved}

    def change(self, person):
        dice = self.dice
        self.directory.serial += 1
        serial = self.directory.serial
        kind = dice.below(5)
        if kind == 0:
            person.title = "%s %d" % (dice.pick(TITLES), serial)
        elif kind == 1:
            person.mobile = phone(dice, serial)
        elif kind == 2:
            person.email = "moved%d@mail.test" % serial
        elif kind == 3:
            person.status = dice.pick(
                [s for s in STATUSES[:3] if s != person.status])
        else:
            taken = [m.department for m in person.memberships]
            free = [d for d in self.places if d not in taken]
            if free:
                person.memberships = [Membership(dice.pick(free))]
                person.main_department = person.memberships[0].department
            else:
                person.name += " jr."

    def move_departments(self):
        directory, moved = self.directory, []
        movable = [d for d in self.places if directory.departments[d].parent]
        for ident in self.dice.some(movable, self.share(len(movable), 1)):
            dept = directory.departments[ident]
            below = set(directory.subtree(ident))
            height = directory.height(ident)
            targets = [d for d in self.dice.some(self.places, 20)
                       if d not in below and d != dept.parent
                       and directory.depth(d) + height <= MAX_DEPTH]
            if targets:
                directory.children[dept.parent].remove(ident)
                dept.parent = targets[0]
                directory.children.setdefault(dept.parent, []).append(ident)
                moved.append(ident)
        directory.touch()
        return moved


TINY_UNITS = ((1, 0, "Bluebird Tea Company", ["chen.jing"]),
              (2, 1, "Sales", ["anna.keller"]),
              (3, 1, "Engineering", ["ZhangWei"]),
              (4, 3, "Platform Team", ["priya.nair"]),
              (5, 1, "Finance & People", ["tom.becker"]))

# uid, name, title, departments (the first one is the main one)
TINY_PEOPLE = (
    ("chen.jing", "Chen Jing", "Managing director", (1,)),
    ("anna.keller", "Anna Keller", "Head of sales", (2,)),
    ("li.na", "Li Na", "Account manager", (2,)),
    ("marco.rossi", "Marco Rossi", "Account manager", (2, 5)),
    ("sofia.lind", "Sofia Lind", "Sales assistant", (2,)),
    ("ZhangWei", "张伟", "Head of engineering", (3, 4)),
    ("priya.nair", "Priya Nair", "Team lead", (4,)),
    ("jonas.holm", "Jonas Holm", "Database engineer", (4,)),
    ("grace.obi", "Grace Obi", "Software engineer", (4, 3)),
    ("wang.fang", "Wang Fang", "Test engineer", (3,)),
    ("tom.becker", "Tom Becker", "Head of finance", (5,)),
    ("emma.dubois", "Emma Dubois", "Recruiter", (5,)))


def tiny():
    """5 departments and 12 people with readable names."""
    units = [Department(i, parent, name, "", 100000000 - i, list(leaders))
             for i, parent, name, leaders in TINY_UNITS]
    heads = {unit.id: unit.leaders for unit in units}
    people = []
    for number, (uid, name, title, places) in enumerate(TINY_PEOPLE, 1):
        person = Person(uid, name, title=title, main_department=places[0])
        person.memberships = [Membership(d, uid in heads[d]) for d in places]
        person.mobile = "1380000%04d" % number
        person.email = "%s@bluebird.test" % uid.lower()
        person.biz_email = ""
        person.avatar = "https://img.test/bluebird/%d/0" % number
        people.append(person)
    by_uid = {p.uid: p for p in people}
    by_uid["marco.rossi"].mobile = "+86 138-0000-0004"
    by_uid["sofia.lind"].mobile = None
    by_uid["wang.fang"].status = "inactive"
    by_uid["emma.dubois"].status = "disabled"
    return Directory(units, people)
