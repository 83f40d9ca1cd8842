# shellcheck shell=bash
# What the scripts beside it share; to be sourced by bash with set -eu.
#
# Nothing here touches a cluster or an installation of the machine: servers
# run from a private copy of the PostgreSQL programs, in which the extension
# is installed, on data directories made for the purpose, reachable through
# a Unix socket in their own directory only.

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$tools/../.." && pwd)

# the user's settings for another server must not leak into these ones
unset PGHOST PGHOSTADDR PGPORT PGDATA PGUSER PGDATABASE PGPASSWORD PGOPTIONS \
	PGSERVICE PGSERVICEFILE PGAPPNAME PGSSLMODE PGCLIENTENCODING DESTDIR
export LC_ALL=C.UTF-8 LANG=C.UTF-8

die()
{
	echo "$*" >&2
	exit 1
}

# The PostgreSQL to build for: PG_CONFIG if the user named one, else the newest
# installed server that has its headers, else the newest installed server,
# else whatever pg_config is on the path.  Sets PG_CONFIG, to nothing if there
# is none.
pg_find()
{
	local dir server=

	[ -z "${PG_CONFIG:-}" ] || return 0
	PG_CONFIG=
	while read -r dir; do
		if [ ! -x "$dir/postgres" ] || [ ! -x "$dir/pg_config" ]; then
			continue
		fi
		server=${server:-$dir/pg_config}
		if [ -z "$PG_CONFIG" ] && [ -e "$("$dir/pg_config" --pgxs)" ]; then
			PG_CONFIG=$dir/pg_config
		fi
	done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr)
	if [ -z "$PG_CONFIG" ]; then
		PG_CONFIG=${server:-$(command -v pg_config || true)}
	fi
}

# The same, but it must be there, and of a version that is supported.
pg_require()
{
	local version

	pg_find
	[ -n "$PG_CONFIG" ] || die "no PostgreSQL server was found; name its pg_config with PG_CONFIG=..."
	version=$("$PG_CONFIG" --version)
	pg_version=${version#PostgreSQL }
	pg_version=${pg_version%% *}
	[ "${pg_version%%[!0-9]*}" -ge 15 ] || die "$version is too old, uds needs PostgreSQL 15 or later"
	export PG_CONFIG
	pgxs_tests=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")/test
}

# The server refuses to run as root, so root hands it to the user postgres,
# which the Debian package creates.
server_user=
if [ "$(id -u)" = 0 ]; then
	server_user=${UDS_SERVER_USER:-postgres}
fi

# Runs a command as the user the servers run as.
as_server()
{
	if [ -n "$server_user" ]; then
		runuser -u "$server_user" -- "$@"
	else
		"$@"
	fi
}

# scratch_dir NAME: makes a directory that the servers' user can reach,
# wherever the tree is, and sets work to it.  What the servers write goes to
# run and tmp in it.  Sets pg_bin to where private_install puts the programs.
scratch_dir()
{
	[ -z "$server_user" ] || id "$server_user" >/dev/null 2>&1 ||
		die "there is no user $server_user to run the server as; name one with UDS_SERVER_USER=..."
	work=$(mktemp -d "${TMPDIR:-/tmp}/uds-$1.XXXXXX")
	[ -z "$server_user" ] || chmod 711 "$work"
	as_server test -x "$work" ||
		die "the user ${server_user:-$(id -un)} cannot reach $work; set TMPDIR to a directory that everybody can reach"
	mkdir -m 700 "$work/run" "$work/tmp"
	[ -z "$server_user" ] || chown "$server_user:" "$work/run" "$work/tmp"
	pg_bin=$work/inst$("$PG_CONFIG" --bindir)
}

# Runs a command where and as the servers run, with what the test programs of
# PostgreSQL expect to find in the environment.
server_env()
{
	cd "$work/run" || return
	as_server env PATH="$pg_bin:$PATH" TMPDIR="$work/tmp" TESTDIR="$work/run" \
		TESTDATADIR="$work/run/tmp_check" TESTLOGDIR="$work/run/tmp_check/log" \
		PERL5LIB="$pgxs_tests/perl:$work/src/test/lib" PYTHONDONTWRITEBYTECODE=1 \
		PG_REGRESS="$pgxs_tests/regress/pg_regress" PG_TEST_TIMEOUT_DEFAULT=60 \
		UDS_TEST_LONG="${UDS_TEST_LONG:-}" "$@"
}

# Copies the tree to $work/src, without what was built in it.
copy_tree()
{
	mkdir "$work/src"
	tar -C "$top" --exclude-vcs --exclude=./.demo --exclude=./tmp_check \
		--exclude='*.o' --exclude='*.so' --exclude='./uds--*.sql' \
		--exclude=__pycache__ --no-same-owner -cf - . | tar -C "$work/src" --no-same-owner -xf -
}

# build_tree [make arguments]: builds the copy.
build_tree()
{
	make -C "$work/src" -j "$(nproc)" PG_CONFIG="$PG_CONFIG" "$@"
}

# Copies the PostgreSQL programs to $work/inst and installs the built tree
# there.  PostgreSQL finds its files from where its programs are, so a copy of
# the programs, with links to the rest, is an installation of its own.
private_install()
{
	local bin lib share

	bin=$("$PG_CONFIG" --bindir)
	lib=$("$PG_CONFIG" --pkglibdir)
	share=$("$PG_CONFIG" --sharedir)
	mkdir -p "$pg_bin" "$work/inst$lib" "$work/inst$share"
	cp -R "$bin/." "$pg_bin"
	cp -Rs "$lib/." "$work/inst$lib"
	cp -Rs "$share/." "$work/inst$share"
	rm -f "$work/inst$lib"/uds.so "$work/inst$share"/extension/uds[.-]*
	make -C "$work/src" PG_CONFIG="$PG_CONFIG" DESTDIR="$work/inst" install
}

# Milliseconds since the epoch.
now_ms()
{
	echo $((${EPOCHREALTIME/./} / 1000))
}

# seconds MILLISECONDS: as text with one decimal.
seconds()
{
	printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100))
}
