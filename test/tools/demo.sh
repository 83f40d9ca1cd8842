#!/usr/bin/env bash
# demo.sh [start|stop]: builds the tree, starts a scratch server and the mock
# WeCom service, and shows a first and a second sync.
#
# Everything is in one directory outside the tree, which .demo links to, so
# that the server's user can reach it wherever the tree is.
set -eu
. "$(dirname "$0")/lib.sh"

link=$top/.demo
# the servers' user may not be able to stand where the caller stands
cd /

# Stops server and mock, as the user they run as, and removes the directory.
stop_demo()
{
	local dir pid

	[ -L "$link" ] || return 0
	dir=$(readlink "$link")
	if [ -d "$dir" ]; then
		if [ -e "$dir/run/data/postmaster.pid" ]; then
			pg_bin=$(cat "$dir/pg_bin")
			as_server "$pg_bin/pg_ctl" -D "$dir/run/data" -m fast -w stop >/dev/null 2>&1 ||
				as_server "$pg_bin/pg_ctl" -D "$dir/run/data" -m immediate -w stop >/dev/null 2>&1 || true
		fi
		# the mock removes its port file when it ends
		if [ -e "$dir/run/mock.port" ] && pid=$(cat "$dir/run/mock.pid") &&
			tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$dir/run/mock.port"; then
			as_server kill "$pid" 2>/dev/null || true
		fi
		rm -rf "$dir"
	fi
	rm -f "$link"
}

if [ "${1:-start}" = stop ]; then
	if [ -L "$link" ]; then
		stop_demo
		echo "server and mock are stopped, their directory is removed"
	else
		echo "no demo is running"
	fi
	exit 0
fi

# ---------------------------------------------------------------------------
# Setting up
# ---------------------------------------------------------------------------

# failed TEXT: keeps the logs and gives up
failed()
{
	mkdir -p "$top/tmp_check/demo"
	cp "$log" "$work"/run/*.log "$top/tmp_check/demo" 2>/dev/null || true
	die "$1; the logs are in tmp_check/demo"
}

# step TEXT COMMAND...: one line on the screen, the rest in the log
step()
{
	local text=$1 began

	shift
	began=$(now_ms)
	printf '%-54s' "$text"
	# in the background, for there set -e holds
	"$@" >>"$log" 2>&1 &
	if ! wait $!; then
		echo "failed"
		tail -n 20 "$log" >&2
		failed "$text failed"
	fi
	echo "$(seconds $(($(now_ms) - began))) s"
}

build()
{
	copy_tree
	build_tree -s
}

start_server()
{
	as_server "$pg_bin/initdb" -D "$work/run/data" -U postgres -A trust -E UTF8 --no-sync >/dev/null
	as_server tee -a "$work/run/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$work/run'
		fsync = off
		shared_preload_libraries = 'uds'
		# private addresses are refused unless they are named here
		uds.allowed_hosts = '127.0.0.1'
	CONF
	as_server "$pg_bin/pg_ctl" -D "$work/run/data" -l "$work/run/server.log" -w start
	psql_demo -d postgres -c 'CREATE DATABASE demo'
}

start_mock()
{
	# the script that starts it writes down the process that it becomes
	# shellcheck disable=SC2016
	as_server setsid sh -c 'cd "$1/run" && echo $$ >mock.pid &&
			exec python3 "$1/src/test/mock/server.py" --port 0 --port-file "$1/run/mock.port" \
				--tiny --lifetime 604800 </dev/null >mock.log 2>&1' sh "$work" >/dev/null 2>&1 &
	for _ in $(seq 100); do
		[ ! -s "$work/run/mock.port" ] || return 0
		sleep 0.1
	done
	cat "$work/run/mock.log"
	return 1
}

psql_demo()
{
	PGOPTIONS='-c client_min_messages=warning' as_server "$pg_bin/psql" -X -h "$work/run" -U postgres -d demo \
		-v ON_ERROR_STOP=1 -P pager=off -P null= "$@"
}

# give_up: called on the way out, so that a failed start leaves nothing running
give_up()
{
	[ "$started" = yes ] || stop_demo
}

"$tools/deps.sh" build demo
pg_require
stop_demo
scratch_dir demo
started=no
trap give_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
ln -s "$work" "$link"
log=$work/demo.log
echo "$pg_bin" >"$work/pg_bin"

step "building uds for PostgreSQL $pg_version" build
step "installing it in a private copy of PostgreSQL" private_install
step "starting a scratch server" start_server
step "starting a mock WeCom service" start_mock
port=$(cat "$work/run/mock.port")

# ---------------------------------------------------------------------------
# Showing
# ---------------------------------------------------------------------------

# show TEXT SQL: what it does, the statement, its real output
show()
{
	printf '\n-- %s\n%s\n\n' "$1" "$2"
	psql_demo -q <<<"$2" || failed "that did not work"
}

show "The extension, and a source: where the directory is and how to get in." \
	"CREATE EXTENSION uds;

SELECT uds_create_source('wecom', 'wecom',
    '{\"corpid\": \"ww0123456789abcdef\", \"secret\": \"app-secret\",
      \"base_url\": \"http://127.0.0.1:$port/wecom\"}');"

show "Sync it, and wait for the end. The answer is the number of the task." \
	"SELECT uds_sync('wecom', wait => true);"

show "What became of it." \
	"\\x
SELECT id, kind, status, message, complete, requests, pages, fetched,
       created, updated, unchanged, linked, failed, fetch_ms, apply_ms
FROM uds.tasks ORDER BY id DESC LIMIT 1;"

show "How much came in." \
	"SELECT (SELECT count(*) FROM uds.departments) AS departments,
       (SELECT count(*) FROM uds.users) AS users,
       (SELECT count(*) FROM uds.users WHERE enabled) AS enabled,
       (SELECT count(*) FROM uds.department_members) AS memberships;"

show "The departments: people directly in each, and in it or below." \
	"SELECT repeat('    ', depth) || title AS department, members, members_below
FROM uds.department_tree ORDER BY path;"

show "Ten users." \
	"SELECT u.username, u.nickname, u.email, u.phone, u.enabled, d.title AS main_department
FROM uds.users u LEFT JOIN uds.departments d ON d.id = u.main_department_id
ORDER BY u.id LIMIT 10;"

show "What the service said, page by page; kept for uds.raw_log_retention." \
	"SELECT seq, stream, left(regexp_replace(request, 'https?://[^/]+', ''), 50) AS request, status, bytes,
       left(body, 60) AS body
FROM uds.raw_log ORDER BY id LIMIT 5;"

show "Once more: nothing has changed, so nothing is written." \
	"SELECT uds_sync('wecom', wait => true);

SELECT id, status, fetched, created, updated, unchanged, linked, unlinked, cost AS ms
FROM uds.tasks ORDER BY id;"

started=yes
cat <<END

Server and mock go on running. To look around:

    psql -h $work/run -U postgres demo

To end it: make demo-stop
END
