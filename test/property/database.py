"""A scratch server, psql on one of its databases, and a directory to sync."""

import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading

from model import PREPARED
from sequence import literal

FIELDS = {
    "user": ("uid", "username", "nickname", "email", "phone", "title", "level", "shoes",
             "enabled", "isDeleted", "departments"),
    "department": ("uid", "title", "sort", "enabled", "isDeleted", "parentUid", "owners")}

MANIFEST = {
    "manifest": 1, "title": "Property test",
    "options": {"base_url": {"required": True}}, "base_url": "{options.base_url}",
    "plans": [{"name": "full", "streams": ["departments", "users"]}],
    "streams": {
        kind + "s": {"type": kind, "request": {"path": "/%ss" % kind},
                     "records": "$.list[*]", "expect": "$.list",
                     "fields": {field: "$." + field for field in fields}}
        for kind, fields in FIELDS.items()}}

WIPE = "".join("DELETE FROM uds.%s;\n" % table for table in (
    "users", "departments", "department_members", "record_resources", "records",
    "pending_references", "disabled_rows", "record_history", "changes", "task_errors",
    "raw_log", "tasks"))


class Server:
    """A cluster of its own in a temporary directory, for as long as this runs."""

    def __init__(self):
        self.base = tempfile.mkdtemp(prefix="uds-property.")
        self.data = os.path.join(self.base, "data")
        self.socket = self.base
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-N", "--locale=C",
                 "--encoding=UTF8")
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as conf:
            conf.write("shared_preload_libraries = 'uds'\nuds.allowed_hosts = '127.0.0.1'\n"
                       "uds.http_retry_delay = '10ms'\nlisten_addresses = ''\n"
                       "fsync = off\nunix_socket_directories = '%s'\n" % self.socket)
        log = os.path.join(os.environ.get("TESTLOGDIR") or self.base, "server.log")
        self.run("pg_ctl", "-D", self.data, "-w", "-l", log, "start")

    @staticmethod
    def run(*command):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def stop(self):
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.base)


class Directory:
    """Serves what the source "dir" is to show, on a free port."""

    def __init__(self):
        self.pages = {"/departments": [], "/users": []}
        pages = self.pages

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = json.dumps({"list": pages[self.path]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self):
        return "http://127.0.0.1:%d" % self.server.server_port

    def close(self):
        self.server.shutdown()


class Database:
    """psql on a database that is made for it, one command at a time."""

    MARK = "--done--"

    def __init__(self, socket, directory):
        name = "property_%d" % os.getpid()
        self.directory = directory
        self.recent = []
        self.psql = None
        self.connect(socket, "postgres")
        self.ask("CREATE DATABASE %s;" % name)
        self.close()
        self.connect(socket, name)
        self.ask("CREATE EXTENSION uds;\n" + PREPARED)
        self.ask("INSERT INTO uds.source_types (name, title, manifest)"
                 " VALUES ('property', 'Property test', %s);" % literal(json.dumps(MANIFEST)))
        self.ask("SELECT uds_create_source('hr', 'push'), uds_create_source('it', 'push'),"
                 " uds_create_source('dir', 'property', %s);"
                 % literal(json.dumps({"base_url": directory.url()})))

    def connect(self, socket, name):
        self.psql = subprocess.Popen(
            ["psql", "-XAtq", "-v", "VERBOSITY=terse", "-h", socket, "-U", "postgres", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8")
        self.ask("SET client_min_messages = warning;")

    def ask(self, sql):
        """Runs SQL; returns the lines that it gave, errors included."""
        self.recent = self.recent[-9:] + [sql.split("\n", maxsplit=1)[0]]
        self.psql.stdin.write("%s\n\\echo %s\n" % (sql, self.MARK))
        self.psql.stdin.flush()
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == self.MARK:
                return lines
            lines.append(line.rstrip("\n"))
        raise ConnectionError("psql ended: " + "\n".join(lines))

    def log(self):
        """The first lines of the latest commands."""
        return "\n".join(self.recent)

    def wipe(self):
        lines = self.ask(WIPE)
        if lines:
            raise ValueError("could not wipe: " + "\n".join(lines))

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()
