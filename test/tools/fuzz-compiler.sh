#!/bin/sh
# Prints the clang that can build fuzz targets here; fails if there is none.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/try.c" <<'C'
#include <stddef.h>
#include <stdint.h>
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return data == NULL && size > 0; }
C
for clang in clang /usr/bin/clang-[0-9] /usr/bin/clang-[0-9][0-9]; do
	if command -v "$clang" >/dev/null &&
		"$clang" -fsanitize=fuzzer,address,undefined "$dir/try.c" -o "$dir/try" >/dev/null 2>&1; then
		echo "$clang"
		exit 0
	fi
done
exit 1
