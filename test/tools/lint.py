#!/usr/bin/env python3
"""Rules of the house that a program can check.  Run at the top of the tree; prints TAP."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

MAX_LINES = 600
results = []


def check(name, problems):
    """Records one rule and the places that break it."""
    results.append(not problems)
    print("%sok %d - %s" % ("" if not problems else "not ", len(results), name))
    for problem in problems:
        print("# " + problem)


def skip(name, why):
    """Says that a rule could not be checked."""
    results.append(True)
    print("ok %d - %s # SKIP %s" % (len(results), name, why))


def files(top, *endings):
    for folder, _, names in os.walk(top):
        for name in sorted(names):
            if name.endswith(endings):
                yield os.path.join(folder, name)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|(\$[A-Za-z_]*\$).*?\1|\bBEGIN\s+ATOMIC\b.*?\bEND\b(?=\s*;)|;|\w+|[^\w;'$/-]+|.",
    re.S | re.I)


def statements(text):
    """Splits SQL into statements without comments, keeping strings whole."""
    current = []
    for token in TOKEN.finditer(text):
        part = token.group(0)
        if part == ";":
            yield "".join(current).strip()
            current = []
        elif not part.startswith(("--", "/*")):
            current.append(part)
    if "".join(current).strip():
        yield "".join(current).strip()


def outside_strings(statement):
    return re.sub(r"'(?:[^']|'')*'|(\$[A-Za-z_]*\$).*?\1", "''", statement, flags=re.S)


def lint_versions():
    check("PG_VERSION_NUM only in src/compat.h",
          ["%s: line %d" % (path, number)
           for path in files("src", ".c", ".h") if path != os.path.join("src", "compat.h")
           for number, line in enumerate(read(path).splitlines(), 1) if "PG_VERSION_NUM" in line])


def lint_lengths():
    check("no file under src has more than %d lines" % MAX_LINES,
          ["%s: %d lines" % (path, read(path).count("\n"))
           for path in files("src", ".c", ".h", ".sql", ".json", ".sh")
           if read(path).count("\n") > MAX_LINES])


def lint_sql():
    created, commented = [], set()
    unpinned, careless, homeless = [], [], []
    name = r'([\w".@]+)'
    for path in files("src/sql", ".sql"):
        for statement in statements(read(path)):
            bare = outside_strings(statement)
            first = " ".join(bare.split())[:60]
            if re.search(r"\bOR\s+REPLACE\b|\bIF\s+NOT\s+EXISTS\b", bare, re.I):
                careless.append("%s: %s" % (path, first))
            made = re.match(r"CREATE\s+(?:UNLOGGED\s+)?(FUNCTION|PROCEDURE|TABLE|VIEW)\s+" + name, bare, re.I)
            said = re.match(r"COMMENT\s+ON\s+(FUNCTION|PROCEDURE|TABLE|VIEW)\s+" + name, bare, re.I)
            if made:
                created.append((path, made.group(1).upper(), made.group(2)))
            if re.match(r"CREATE\s+(?!SCHEMA\b)", bare, re.I) and not re.match(
                    r"CREATE\s+(?:UNIQUE\s+)?INDEX\b|CREATE\s+TRIGGER\b[^;]*?\bON\s+uds\.|CREATE\s+(?:UNLOGGED\s+)?\w+\s+(uds|@extschema@)\.", bare, re.I):
                homeless.append("%s: %s" % (path, first))
            if said:
                commented.add((said.group(1).upper(), said.group(2)))
            if made and made.group(1).upper() in ("FUNCTION", "PROCEDURE") \
                    and re.search(r"\bLANGUAGE\s+'?(sql|plpgsql)\b", statement, re.I) \
                    and not re.search(r"\bSET\s+search_path\b", bare, re.I):
                unpinned.append("%s: %s" % (path, made.group(2)))
    check("every function, table and view has a comment",
          ["%s: %s %s" % (path, kind.lower(), what)
           for path, kind, what in created if (kind, what) not in commented])
    check("every function in SQL and PL/pgSQL pins its search_path", unpinned)
    check("the install script names the schema of what it creates", homeless)
    check("the install script has no OR REPLACE and no IF NOT EXISTS", careless)


def lint_grants():
    """Classes of holes that install scripts of extensions are known for."""
    public, definer, open_to_all, revoked, callable_, dynamic = [], [], [], set(), [], []
    for path in files("src/sql", ".sql"):
        for statement in statements(read(path)):
            bare = outside_strings(statement)
            first = " ".join(bare.split())[:60]
            if re.match(r"(GRANT|ALTER\s+DEFAULT\s+PRIVILEGES)\b", bare, re.I) and re.search(r"\bTO\s+PUBLIC\b", bare, re.I):
                public.append("%s: %s" % (path, first))
            if re.search(r"\bSECURITY\s+DEFINER\b", bare, re.I) and not re.search(
                    r"\bSET\s+search_path\s*(=|TO)\s*pg_catalog\s*,\s*pg_temp\b", bare, re.I):
                definer.append("%s: %s" % (path, first))
            for pinned in re.findall(r"\bsearch_path\s*(?:=|TO)\s*([^\n;]+)", bare, re.I):
                if re.sub(r"\s", "", pinned) != "pg_catalog,pg_temp":
                    open_to_all.append("%s: %s" % (path, first))
            if re.match(r"(DO|EXECUTE)\b", bare, re.I):
                dynamic.append("%s: %s" % (path, first))
            made = re.match(r"CREATE\s+(?:FUNCTION|PROCEDURE|AGGREGATE)\s+([\w.@]+)", bare, re.I)
            if made:
                callable_.append((path, made.group(1)))
            revoke = re.match(r"REVOKE\s+ALL\s+ON\s+FUNCTION\s+([\w.@]+).*\bFROM\s+PUBLIC", bare, re.I | re.S)
            if revoke:
                revoked.add(revoke.group(1))
    check("the install script grants nothing to PUBLIC", public)
    check("no function runs with its owner's rights, or its search_path is pinned", definer)
    check("every search_path that is set is pg_catalog and pg_temp last", open_to_all)
    check("the install script runs no code put together at run time", dynamic)
    # grants.sql, which comes last, has one REVOKE for all functions in our own schema
    all_ours = re.search(r"^REVOKE ALL ON ALL FUNCTIONS IN SCHEMA uds FROM PUBLIC;", read("src/sql/grants.sql"), re.M)
    check("EXECUTE on every function is taken from PUBLIC",
          ["%s: %s" % (path, what) for path, what in callable_
           if what not in revoked and not (all_ours and what.startswith("uds."))])
    check("the install script pins its search_path before anything else",
          [] if next(statements(read("src/sql/tables.sql"))).split()
          == "SET LOCAL search_path = pg_catalog, pg_temp".split()
          and re.search(r"SQL_PARTS\s*=\s*src/sql/tables\.sql\b", read("Makefile"))
          else ["src/sql/tables.sql is not the first part, or begins with something else"])


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          universal_newlines=True).stdout.split()


def lint_clang():
    """The build is gcc's; clang warns of other things."""
    name = "clang has no warning"
    clang = shutil.which("clang")
    pg_config = os.environ.get("PG_CONFIG") or shutil.which("pg_config")
    if not clang or not pg_config:
        skip(name, "no %s" % ("pg_config" if clang else "clang"))
        return
    command = [clang, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
               "-Wno-missing-field-initializers", "-Wno-sign-compare", "-D_GNU_SOURCE", "-Isrc",
               "-isystem", *output(pg_config, "--includedir-server"),
               *output("pkg-config", "--cflags", "libcurl", "libcjson")]

    def compile_one(path):
        done = subprocess.run([*command, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True)
        lines = [line for line in done.stdout.splitlines() if re.search(r"(error|warning):", line)]
        return lines or ([] if done.returncode == 0 else ["%s: clang failed" % path])

    with ThreadPoolExecutor(2) as pool:
        check(name, [line for lines in pool.map(compile_one, list(files("src", ".c"))) for line in lines])


def lint_cppcheck():
    name = "cppcheck finds nothing"
    cppcheck = shutil.which("cppcheck")
    if not cppcheck:
        skip(name, "no cppcheck")
        return
    done = subprocess.run(
        [cppcheck, "-q", "-j2", "--enable=warning,portability", "--inline-suppr", "--max-configs=1",
         "--template={file}:{line}: {severity}: {message} ({id})", "--suppress=missingInclude",
         "--suppress=unknownMacro", "-Isrc", "-DFLEXIBLE_ARRAY_MEMBER=", "-DINT64_FORMAT=\"%ld\"",
         "-DUINT64_FORMAT=\"%lu\"", "-DNULL=((void *) 0)", "-DERROR=21",
         "-Dpg_attribute_noreturn()=__attribute__((noreturn))",
         "-Dereport(elevel,...)=((elevel) >= ERROR ? abort() : (void) 0)", "src"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    check(name, done.stderr.splitlines() or ([] if done.returncode == 0 else ["cppcheck failed"]))


def lint_json():
    problems = []
    for path in ["META.json", *files("src/connectors", ".json")]:
        try:
            json.loads(read(path))
        except (OSError, ValueError) as e:
            problems.append("%s: %s" % (path, e))
    check("META.json and the manifests are JSON", problems)

    meta = json.loads(read("META.json")) if not problems else {}
    control = re.search(r"^default_version\s*=\s*'([^']*)'", read("uds.control"), re.M).group(1)
    extension = meta.get("provides", {}).get("uds", {})
    check("META.json names the version of uds.control",
          [] if meta.get("version") == extension.get("version") == control + ".0"
          and extension.get("file") == "uds--%s.sql" % control
          else ["uds.control: %s, META.json: %s" % (control, meta.get("version"))])


def lint_scripts():
    problems = []
    for path in [*files("src", ".sh"), *files("test", ".sh"), ".ci/run"]:
        if subprocess.run(["bash", "-n", path], stderr=subprocess.PIPE).returncode != 0:
            problems.append(path)
    check("every shell script can be parsed", problems)


lint_versions()
lint_lengths()
lint_sql()
lint_grants()
lint_json()
lint_scripts()
lint_clang()
lint_cppcheck()
print("1..%d" % len(results))
sys.exit(0 if all(results) else 1)
