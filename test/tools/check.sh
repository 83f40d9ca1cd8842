#!/usr/bin/env bash
# check.sh: builds the tree in a scratch copy and runs every test there is, on
# scratch clusters.  Ends with one line, "N passed, N failed"; fails if any did.
#
# What counts: a rule of lint, the build, an assertion of a unit or TAP test, a
# fuzz target, a file of pg_regress or isolation tests, an assertion of the
# mock's self-check, a hundred sequences of the property test.  A part that ends
# badly counts at least one failure.
#
# Environment: PARTS, TESTS, FUZZ_SECONDS, SEQUENCES, SEED, JOBS, PART_TIMEOUT
# (seconds), KEEP=1, PG_CONFIG, TMPDIR.
set -eu
. "$(dirname "$0")/lib.sh"

all_parts="lint unit fuzz mock regress isolation property tap"
parts=${PARTS:-$all_parts}
pattern=${TESTS:-}
fuzz_seconds=${FUZZ_SECONDS:-30}
jobs=${JOBS:-2}
limit=${PART_TIMEOUT:-900}

for part in $parts; do
	case " $all_parts " in
		*" $part "*) ;;
		*) die "there is no part $part; the parts are: $all_parts" ;;
	esac
done

wants()
{
	case " $parts " in *" $1 "*) return 0 ;; esac
	return 1
}

# selected GLOB: the files that match it, and TESTS if that is given
selected()
{
	local file

	# the pattern is to be expanded
	# shellcheck disable=SC2231
	for file in $1; do
		if [ -e "$file" ] && { [ -z "$pattern" ] || [[ ${file##*/} == *"$pattern"* ]]; }; then
			printf '%s\n' "$file"
		fi
	done
}

# ---------------------------------------------------------------------------
# Running a part: in the background and a process group of its own, so that it
# can be ended with all it started.
# ---------------------------------------------------------------------------

passed=0
failed=0
skipped=0
trouble=()
running=

# Ends the part that runs, and servers it left behind.
stop_running()
{
	local file

	if [ -n "$running" ]; then
		kill -TERM -- "-$running" 2>/dev/null || true
		running=
	fi
	while read -r file; do
		as_server "$pg_bin/pg_ctl" -D "${file%/*}" -m immediate -w stop >/dev/null 2>&1 || true
	done < <(find "$work" -name postmaster.pid 2>/dev/null)
}

# Counts of a part: "passed failed skipped" in the file that its name gives.
counts_file()
{
	echo "$work/counts/$1"
}

# run_part NAME FUNCTION: runs it, counts, prints one line.
run_part()
{
	local name=$1 log=$logs/$1.log began ended=0 p=0 f=0 s=0 watchdog what

	began=$(now_ms)
	set -m
	(
		set +m
		"$2"
	) >"$log" 2>&1 &
	running=$!
	(
		set +m
		sleep "$limit"
		echo "stopped: not done after $limit seconds" >>"$log"
		kill -TERM -- "-$running"
	) >/dev/null 2>&1 &
	watchdog=$!
	disown "$watchdog"
	set +m
	wait "$running" || ended=$?
	kill -TERM -- "-$watchdog" 2>/dev/null || true
	stop_running

	if [ -e "$(counts_file "$name")" ]; then
		read -r p f s <"$(counts_file "$name")"
	fi
	if [ "$ended" != 0 ] && [ "$f" = 0 ]; then
		f=1
	fi
	passed=$((passed + p))
	failed=$((failed + f))
	skipped=$((skipped + s))
	if [ "$f" != 0 ]; then
		trouble+=("$name")
	fi
	what="$p passed"
	[ "$f" = 0 ] || what="$what, $f FAILED"
	[ "$s" = 0 ] || what="$what, $s skipped"
	printf '%-10s %-40s %6s s\n' "$name" "$what" "$(seconds $(($(now_ms) - began)))"
	if [ "$s" != 0 ]; then
		sed -n 's/^SKIP: /           skipped: /p' "$log"
	fi
}

# skip_part NAME NUMBER WHY: its tests could not be run
skip_part()
{
	skipped=$((skipped + $2))
	printf '%-10s %-40s\n' "$1" "$2 skipped: $3"
}

tap()
{
	local name=$1

	shift
	perl "$tools/tap.pl" --counts "$(counts_file "$name")" "$@"
}

# ---------------------------------------------------------------------------
# The parts.  Each runs in a subshell with its output in a log.
# ---------------------------------------------------------------------------

part_build()
{
	set -e
	build_tree COPT=-Werror
	private_install
	echo "1 0 0" >"$(counts_file build)"
}

part_lint()
{
	cd "$work/src"
	tap lint --programs test/tools/lint.py
}

# sources_of FILE: the sources that it names in its line "sources:"
sources_of()
{
	perl -0ne 'if (m{/\*\s*sources:(.*?)\*/}s) { $_ = $1; s/^\s*\*//mg; print join(" ", split), "\n" }' "$1"
}

# compile FILE PROGRAM COMPILER FLAG...: a test that needs no server
compile()
{
	local file=$1 program=$2 lib

	shift 2
	lib=$("$PG_CONFIG" --pkglibdir)
	[ -e "$lib/libpgcommon.a" ] || lib=$("$PG_CONFIG" --libdir)
	# the lists are to be split at their blanks
	# shellcheck disable=SC2046
	"$@" -DFRONTEND -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer -Wall -Wextra -Werror \
		-Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare \
		-fsanitize=address,undefined -fno-sanitize-recover=undefined \
		-I src -I test/unit -isystem "$("$PG_CONFIG" --includedir-server)" \
		$(pkg-config --cflags libcurl libcjson libcrypto zlib expat ldap) \
		"$file" $(sources_of "$file") -o "$program" \
		-L "$lib" -lpgcommon -lpgport $(pkg-config --libs libcurl libcjson libcrypto zlib expat) -lm
}

part_unit()
{
	local file program programs=() broken=0 p=0 f=0 s=0

	cd "$work/src"
	for file in $(selected 'test/unit/*_test.c'); do
		program=$work/unit/$(basename "$file" .c)
		if compile "$file" "$program" gcc; then
			programs+=("$program")
		else
			echo "FAILED: $file could not be compiled"
			broken=$((broken + 1))
		fi
	done
	if [ ${#programs[@]} -gt 0 ]; then
		tap unit --programs --jobs "$jobs" "${programs[@]}" || true
		read -r p f s <"$(counts_file unit)"
	fi
	echo "$p $((f + broken)) $s" >"$(counts_file unit)"
	[ $((f + broken)) = 0 ]
}

# fuzz NAME PROGRAM: the first directory takes what is found, the second is only read
fuzz()
{
	local corpora=("$work/fuzz/$1")

	[ ! -d "test/unit/corpus/$1" ] || corpora+=("test/unit/corpus/$1")
	"$2" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 \
		-print_final_stats=1 -verbosity=1 -artifact_prefix="$logs/fuzz/$1-" \
		"${corpora[@]}" >"$logs/fuzz/$1.log" 2>&1 && touch "$work/fuzz/$1.passed"
}

part_fuzz()
{
	local file name program clang names=() p=0 f=0

	cd "$work/src"
	if ! clang=$("$tools/fuzz-compiler.sh"); then
		echo "SKIP: no clang with its fuzzer runtime (packages clang, libclang-rt-dev)"
		echo "0 0 $(selected 'test/unit/*_fuzz.c' | wc -l)" >"$(counts_file fuzz)"
		return 0
	fi
	mkdir -p "$logs/fuzz"
	for file in $(selected 'test/unit/*_fuzz.c'); do
		name=$(basename "$file" _fuzz.c)
		program=$work/unit/${name}_fuzz
		mkdir -p "$work/fuzz/$name"
		if ! compile "$file" "$program" "$clang" -fsanitize=fuzzer; then
			echo "FAILED: $file could not be compiled"
			f=$((f + 1))
			continue
		fi
		names+=("$name")
		[ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n || true
		fuzz "$name" "$program" &
	done
	wait
	for name in ${names[@]+"${names[@]}"}; do
		echo "== $name"
		cat "$logs/fuzz/$name.log"
		if [ -e "$work/fuzz/$name.passed" ]; then
			p=$((p + 1))
		else
			echo "FAILED: $name; the input that did it is in tmp_check/fuzz"
			f=$((f + 1))
		fi
	done
	echo "$p $f 0" >"$(counts_file fuzz)"
	[ "$f" = 0 ]
}

# sum_of NAMES FILE: of the numbers in unittest's closing line, as in
# "FAILED (failures=1, errors=2)"
sum_of()
{
	grep -E '^(OK|FAILED)' "$2" | grep -oE "($1)=[0-9]+" | awk -F= '{ n += $2 } END { print n + 0 }'
}

# The self-check is a program of Python's unittest.
part_mock()
{
	local output=$logs/mock.out ended=0 ran f s

	cd "$work/src"
	python3 test/mock/selfcheck.py >"$output" 2>&1 || ended=$?
	cat "$output"
	ran=$(sed -n 's/^Ran \([0-9]*\) test.*/\1/p' "$output")
	f=$(sum_of 'failures|errors' "$output")
	s=$(sum_of skipped "$output")
	rm -f "$output"
	echo "$((ran - f - s)) $f $s" >"$(counts_file mock)"
	return "$ended"
}

# count_files NAME: counts what pg_regress (or its isolation sister) has printed
count_files()
{
	local p f

	p=$(grep -cE '^(ok [0-9]+ |test .* \.\.\. ok )' "$logs/$1.log" || true)
	f=$(grep -cE '^(not ok [0-9]+ |test .* \.\.\. FAILED)' "$logs/$1.log" || true)
	echo "$p $f 0" >"$(counts_file "$1")"
}

# regress_part NAME PROGRAM DIRECTORY GLOB: the input is DIRECTORY's
regress_part()
{
	local name=$1 program=$2 dir=$3 out=$work/run/$1 ended=0 file tests=()

	cd "$dir"
	while read -r file; do
		file=${file##*/}
		tests+=("${file%.*}")
	done < <(selected "$4")
	as_server mkdir "$out"
	printf '%s\n' "shared_preload_libraries = 'uds'" "uds.allowed_hosts = '127.0.0.1'" \
		"fsync = off" "log_line_prefix = '%m [%p] %b %q%a '" >"$work/$name.conf"
	server_env "$program" --inputdir="$dir" --outputdir="$out" --bindir="$pg_bin" \
		--temp-instance="$out/instance" --temp-config="$work/$name.conf" --encoding=UTF8 \
		--dbname=contrib_regression "${tests[@]}" || ended=$?
	count_files "$name"
	cp "$out/regression.diffs" "$logs/$name.diffs" 2>/dev/null || true
	cp "$out/log/postmaster.log" "$logs/$name.server.log" 2>/dev/null || true
	return "$ended"
}

part_regress()
{
	regress_part regress "$pgxs_tests/regress/pg_regress" "$work/src" 'sql/*.sql'
}

part_isolation()
{
	regress_part isolation "$pgxs_tests/isolation/pg_isolation_regress" "$work/src/test" 'specs/*.spec'
}

part_property()
{
	local ended=0

	as_server mkdir -p "$work/run/counts" "$work/run/property"
	server_env env SEQUENCES="${SEQUENCES:-1000}" SEED="${SEED:-1}" JOBS="$jobs" \
		TESTLOGDIR="$work/run/property" perl "$work/src/test/tools/tap.pl" --programs \
		--counts "$work/run/counts/property" "$work/src/test/property/run.py" || ended=$?
	cp "$work/run/counts/property" "$(counts_file property)" || true
	cp "$work/run/property/server.log" "$logs/property.server.log" || true
	return "$ended"
}

part_tap()
{
	local ended=0 files

	cd "$work/src"
	mapfile -t files < <(selected "$PWD/test/t/*.pl")
	as_server mkdir -p "$work/run/counts"
	server_env perl "$work/src/test/tools/tap.pl" --counts "$work/run/counts/tap" --jobs "$jobs" \
		"${files[@]}" || ended=$?
	cp "$work/run/counts/tap" "$(counts_file tap)" || true
	mkdir -p "$logs/tap"
	cp "$work"/run/tmp_check/log/* "$logs/tap" 2>/dev/null || true
	return "$ended"
}

# ---------------------------------------------------------------------------

# deps.sh leaves alone what is there
needs="build check"
{ ! wants fuzz && ! wants lint; } || needs="$needs checkers"
! wants tap || needs="$needs peers"
# shellcheck disable=SC2086
"$tools/deps.sh" $needs
pg_require

scratch_dir check
logs=$top/tmp_check
if [ -e "$logs" ]; then
	rm -rf "$logs"
fi
mkdir "$logs"

cleanup()
{
	stop_running
	if [ -n "${KEEP:-}" ]; then
		echo "scratch directory kept: $work"
	else
		rm -rf "$work"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$work/counts" "$work/unit"
copy_tree
# patterns are to be looked for in the copy
cd "$work/src"

echo "PostgreSQL $pg_version, in a scratch copy; logs in tmp_check"
! wants lint || run_part lint part_lint

built=no
if wants regress || wants isolation || wants property || wants tap; then
	run_part build part_build
	[ ! -x "$pg_bin/postgres" ] || [ ! -e "$(counts_file build)" ] || built=yes
fi

# has NAME GLOB: the part is wanted and there is a test for it
has()
{
	wants "$1" && [ -n "$(selected "$2")" ]
}

# server_part NAME FUNCTION GLOB
server_part()
{
	if ! has "$1" "$3"; then
		return 0
	elif [ "$built" = yes ]; then
		run_part "$1" "$2"
	else
		skip_part "$1" "$(selected "$3" | wc -l)" "not built"
	fi
}

! has unit 'test/unit/*_test.c' || run_part unit part_unit
! has fuzz 'test/unit/*_fuzz.c' || run_part fuzz part_fuzz
! has mock 'test/mock/selfcheck.py' || run_part mock part_mock
server_part regress part_regress 'sql/*.sql'
server_part isolation part_isolation 'test/specs/*.spec'
server_part property part_property 'test/property/run.py'
server_part tap part_tap 'test/t/*.pl'

# excerpt LOG: what failed, with the remarks that follow it
excerpt()
{
	awk '/^ *not ok|FAILED|: error:|^stopped: / { print "    " $0; remarks = 5; next }
		/^ *#/ && remarks-- > 0 { print "    " $0; next }
		{ remarks = 0 }' "$1"
}

for part in ${trouble[@]+"${trouble[@]}"}; do
	excerpt "$logs/$part.log" | head -n 20
	echo "$part failed, see tmp_check/$part.log$([ ! -e "$logs/$part.diffs" ] || echo " and tmp_check/$part.diffs")"
done
if [ "$skipped" = 0 ]; then
	echo "$passed passed, $failed failed"
else
	echo "$passed passed, $failed failed, $skipped skipped"
fi
[ "$failed" = 0 ]
