#!/usr/bin/env bash
# bench.sh: builds the tree in a scratch copy and runs the programs of
# test/bench one after the other (TESTS selects by name), each with the private
# PostgreSQL first on its path and the Perl modules of the tests at hand.
set -eu
. "$(dirname "$0")/lib.sh"

"$tools/deps.sh" build check peers
pg_require
scratch_dir bench
cleanup()
{
	local file

	while read -r file; do
		as_server "$pg_bin/pg_ctl" -D "${file%/*}" -m immediate -w stop >/dev/null 2>&1 || true
	done < <(find "$work" -name postmaster.pid)
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir -p "$top/tmp_check"
copy_tree
{
	build_tree -s && private_install
} >"$top/tmp_check/bench.log" 2>&1 ||
	die "uds could not be built, see tmp_check/bench.log"

for program in "$work"/src/test/bench/*; do
	if [ -f "$program" ] && [ -x "$program" ] && [[ ${program##*/} == *"${TESTS:-}"* ]]; then
		echo "== ${program##*/}"
		server_env "$program"
	fi
done
