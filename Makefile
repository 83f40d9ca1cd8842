# uds: builds with PGXS; `make demo` and `make check` do their own set-up.

EXTENSION = uds
EXTVERSION = 0.1
MODULE_big = uds

SQL_PARTS = src/sql/tables.sql src/sql/connector.sql src/sql/catalog.sql \
	src/sql/process.sql
CONNECTORS = $(sort $(wildcard src/connectors/*.json))

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA_built = uds--$(EXTVERSION).sql
EXTRA_CLEAN = uds--$(EXTVERSION).sql

PG_CPPFLAGS = -I$(srcdir)/src $(shell pkg-config --cflags libcurl libcjson)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers \
	-Wno-sign-compare
SHLIB_LINK = $(shell pkg-config --libs libcurl libcjson)

# only JIT bitcode needs clang and llvm; nothing here is worth inlining
with_llvm = no
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

# The install script: the parts in order, the manifests as rows, the grants last.
uds--$(EXTVERSION).sql: $(SQL_PARTS) src/sql/grants.sql $(CONNECTORS) src/sql/assemble.sh
	sh $(srcdir)/src/sql/assemble.sh $(SQL_PARTS) -- $(CONNECTORS) -- src/sql/grants.sql > $@.tmp
	mv $@.tmp $@
