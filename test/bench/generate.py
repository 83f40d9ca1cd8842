#!/usr/bin/env python3
"""Makes up a directory: the same one for the same arguments, on every machine.

Writes two states of it, "first" and "changed" (1 % of the people later), each
as pages for the server (KIND.N.json) and as one JSON object a line
(KIND.jsonl).
"""

import argparse
import json
import os
import random

PAGE = 1000
SYLLABLES = ["an", "bei", "chen", "da", "fang", "gui", "hao", "jin", "kai", "lan", "ming", "ning",
             "ou", "ping", "qing", "rui", "shan", "tao", "wei", "xin", "yan", "zhou"]
SURNAMES = ["王", "李", "张", "刘", "陈", "Müller", "Smith", "O'Brien", "García", "Nguyễn", "Kowalski", "da Silva"]
GIVEN = ["伟", "芳", "娜", "秀英", "Anna", "José", "Zoë", "Peter \"Pete\"", "Maria", "Linh", "Søren", "Chloé"]
TITLES = ["Engineer", "Senior Engineer", "Sales Manager", "Accountant", "Driver", "Nurse", "设计师", "产品经理",
          "Head of Department", "Intern", "Technician", "Buyer", "Team Lead", "Clerk", "", None]
CITIES = ["Berlin", "上海", "Porto", "Kraków", "Hanoi", "Lyon", "Austin", "深圳"]


class Writer:
    """Takes objects as text and writes them as pages, and as lines."""

    def __init__(self, folder, kind):
        self.folder = folder
        self.kind = kind
        self.pages = 0
        self.page = []
        self.lines = open(os.path.join(folder, kind + ".jsonl"), "w", encoding="utf-8")

    def add(self, text):
        if len(self.page) == PAGE:
            self.flush(last=False)
        self.page.append(text)

    def flush(self, last):
        """The cursor of a page is the number of the next one."""
        after = "" if last else ',"next":"%d"' % (self.pages + 1)
        name = "%s.%d.json" % (self.kind, self.pages)
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as page:
            page.write('{"items":[%s]%s}' % (",".join(self.page), after))
        self.lines.write("".join(text + "\n" for text in self.page))
        self.pages += 1
        self.page = []

    def close(self):
        self.flush(last=True)
        self.lines.close()


def encode(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def department(rng, number):
    """Number 0 is the root; each other one hangs below one that came before."""
    value = {"id": "d%d" % number, "name": "%s %d" % (rng.choice(CITIES), number), "order": rng.randrange(100000)}
    if number > 0:
        value["parent"] = "d%d" % rng.randrange(max(0, number // 8 - 8), number // 8 + 1)
    return value


def some_departments(rng, departments):
    """One to three, 1.5 on average; the first ones are the large ones."""
    count = rng.choices((1, 2, 3), (60, 30, 10))[0]
    chosen = {int(departments * rng.random() ** 2) for _ in range(count)}
    while len(chosen) < min(count, departments):
        chosen.add(rng.randrange(departments))
    places = [{"id": "d%d" % number} for number in sorted(chosen)]
    if len(places) > 1 and rng.random() < 0.7:
        rng.choice(places)["main"] = True
    if rng.random() < 0.005:
        rng.choice(places)["leader"] = True
    return places


def person(rng, number, departments):
    login = "%s%s%d" % (rng.choice(SYLLABLES), rng.choice(SYLLABLES), number)
    return {
        "id": "u%08x" % (number * 2654435761 % 2**32),
        "login": login,
        "name": "%s %s" % (rng.choice(SURNAMES), rng.choice(GIVEN)),
        "mail": login + "@example.com",
        "mobile": "+86 1%010d" % (number * 7919 % 10**10),
        "picture": "https://cdn.example.com/avatar/%016x.png" % rng.getrandbits(64),
        "job": rng.choice(TITLES),
        "city": rng.choice(CITIES),
        "departments": some_departments(rng, departments),
    }


def change(rng, value, departments):
    """Of those that change: 60 % attributes, 25 % departments, 15 % leave."""
    kind = rng.random()
    if kind < 0.6:
        return dict(value, name=value["name"] + " jr.", job="Adviser")
    if kind < 0.85:
        return dict(value, departments=some_departments(rng, departments))
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--departments", type=int, required=True)
    parser.add_argument("folder")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    change_rng = random.Random(args.seed + 1)
    folders = [os.path.join(args.folder, state) for state in ("first", "changed")]

    for folder in folders:
        os.makedirs(folder)
    outs = [Writer(folder, "departments") for folder in folders]
    for number in range(args.departments):
        text = encode(department(rng, number))
        for out in outs:
            out.add(text)
    for out in outs:
        out.close()

    first, changed = [Writer(folder, "users") for folder in folders]
    joiners = 0
    for number in range(args.users):
        value = person(rng, number, args.departments)
        text = encode(value)
        first.add(text)
        if change_rng.random() < 0.01:
            value = change(change_rng, value, args.departments)
            joiners += value is None
            text = None if value is None else encode(value)
        if text is not None:
            changed.add(text)
    # as many come as leave
    for number in range(args.users, args.users + joiners):
        changed.add(encode(person(rng, number, args.departments)))
    first.close()
    changed.close()


main()
