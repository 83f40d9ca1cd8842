#!/bin/sh
# Puts the install script together: SQL parts -- manifests -- closing parts.
# A manifest becomes a row of uds.source_types named after its file.
set -eu
printf '%s\n' '\echo Use "CREATE EXTENSION uds" to load this file. \quit'
mode=sql
for f in "$@"; do
	case "$mode $f" in
		"sql --") mode=manifest ;;
		"manifest --") mode=sql ;;
		sql*) printf '\n'; cat "$f" ;;
		manifest*)
			if grep -q '\$manifest\$' "$f"; then
				echo "$f holds the quoting of the install script" >&2
				exit 1
			fi
			printf '\nINSERT INTO uds.source_types (name, title, manifest, builtin)\n'
			printf "SELECT '%s', m ->> 'title', m, true\nFROM (VALUES (\$manifest\$" "$(basename "$f" .json)"
			cat "$f"
			printf '$manifest$::pg_catalog.jsonb)) AS v (m);\n'
			;;
	esac
done
