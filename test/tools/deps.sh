#!/usr/bin/env bash
# deps.sh [build] [demo] [check] [checkers] [peers]: installs the Debian packages that these
# need, as root or through sudo, and only those that are missing.  Says
# nothing when nothing is.  PG_CONFIG chooses among several servers.
set -eu
. "$(dirname "$0")/lib.sh"

missing=()
wanted=()

# need PACKAGE COMMAND...: the package is missing if the command fails
need()
{
	local package=$1

	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

has_library()
{
	command -v pkg-config && pkg-config --exists "$1"
}

# The header of the C library comes with another package than the compiler.
has_libc()
{
	[ -e /usr/include/stdio.h ]
}

has_server()
{
	[ -n "$PG_CONFIG" ] && [ -x "$("$PG_CONFIG" --bindir)/postgres" ]
}

has_server_headers()
{
	[ -n "$PG_CONFIG" ] && [ -e "$("$PG_CONFIG" --pgxs)" ] &&
		[ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]
}

has_fuzzer()
{
	"$tools/fuzz-compiler.sh"
}

look_for_build()
{
	need gcc command -v gcc
	need libc6-dev has_libc
	need make command -v make
	need pkg-config command -v pkg-config
	need libcurl4-openssl-dev has_library libcurl
	need libcjson-dev has_library libcjson
	need libssl-dev has_library libssl
	need libmicrohttpd-dev has_library libmicrohttpd
	need zlib1g-dev has_library zlib
	need libexpat1-dev has_library expat
	need libldap-dev has_library ldap
	# the version is filled in once the package lists are fresh
	need postgresql-VERSION has_server
	need postgresql-server-dev-VERSION has_server_headers
}

look_for_check()
{
	need python3 command -v python3
	need openssl command -v openssl
	need curl command -v curl
	need perl perl -MTAP::Harness -MHTTP::Tiny -MJSON::PP -e 1
	need libipc-run-perl perl -MIPC::Run -e 1
}

# Without these the fuzz targets and a rule of lint are skipped, so a failure to
# install them is not the end.
look_for_checkers()
{
	has_fuzzer >/dev/null 2>&1 || wanted+=(clang libclang-rt-dev)
	command -v cppcheck >/dev/null || wanted+=(cppcheck)
}

# Servers that others wrote: without them the tests against them are skipped.
look_for_peers()
{
	[ -x /usr/sbin/slapd ] || wanted+=(slapd)
	command -v ldapsearch >/dev/null || wanted+=(ldap-utils)
	[ -z "${UDS_TEST_LONG:-}" ] || [ -x /usr/sbin/samba ] || wanted+=(samba-ad-dc samba-ad-provision)
}

# What is good to have of what was asked for.
look_for_wanted()
{
	local what

	wanted=()
	for what in "$@"; do
		case $what in
			checkers) look_for_checkers ;;
			peers) look_for_peers ;;
		esac
	done
}

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		env DEBIAN_FRONTEND=noninteractive "$@"
	else
		sudo env DEBIAN_FRONTEND=noninteractive "$@"
	fi
}

# The major version of the server that is there, else the distribution's.
server_version()
{
	if [ -n "$PG_CONFIG" ]; then
		"$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/'
	else
		apt-cache depends postgresql | sed -n 's/^ *Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1
	fi
}

[ $# -gt 0 ] || set -- build demo check checkers peers
pg_find
for what in "$@"; do
	case $what in
		build) look_for_build ;;
		demo) need python3 command -v python3 ;;
		check) look_for_check ;;
		checkers | peers) ;;
		*) die "deps.sh knows build, demo, check, checkers and peers, not $what" ;;
	esac
done
look_for_wanted "$@"
[ ${#missing[@]} -gt 0 ] || [ ${#wanted[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
	how="and this is neither root nor a user with sudo: have them installed, then run this again"
elif ! command -v apt-get >/dev/null; then
	how="and there is no apt-get here: install what they stand for, then run this again"
else
	how=
fi
if [ -n "$how" ]; then
	[ ${#missing[@]} -gt 0 ] || exit 0
	die "missing packages: $(printf '%s\n' "${missing[@]}" | sort -u | xargs), $how"
fi

log=$(mktemp "${TMPDIR:-/tmp}/uds-deps.XXXXXX")
trap 'rm -f "$log"' EXIT
if ! as_root apt-get update -q >"$log" 2>&1; then
	cat "$log" >&2
	die "apt-get update failed, so nothing was installed"
fi
version=$(server_version)
[ -n "$version" ] || die "the package lists have no postgresql to install"
mapfile -t missing < <(printf '%s\n' ${missing[@]+"${missing[@]}"} | sed "/^$/d; s/VERSION/$version/" | sort -u)

if [ ${#missing[@]} -gt 0 ]; then
	echo "installing packages: ${missing[*]}"
	if ! as_root apt-get install -q -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
		cat "$log" >&2
		die "apt-get could not install them"
	fi
fi
# the server's headers may have brought the compiler along
[ ${#wanted[@]} -eq 0 ] || look_for_wanted "$@"
if [ ${#wanted[@]} -gt 0 ]; then
	echo "installing packages for fuzzing, lint and tests: ${wanted[*]}"
	# a directory of the machine's own is nobody's wish
	echo "slapd slapd/no_configuration boolean true" | as_root debconf-set-selections >/dev/null 2>&1 || true
	if ! as_root apt-get install -q -y --no-install-recommends "${wanted[@]}" >"$log" 2>&1; then
		echo "they could not be installed; what needs them will be skipped"
	fi
fi
