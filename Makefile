# uds: built with PGXS.  The goals of the first half do their own set-up: they
# install what is missing and work in a scratch copy, so they need nothing
# but make.  Everything else (all, install, installcheck, clean) is PGXS.

TOOL_GOALS = help deps demo demo-stop check check-long unit fuzz property lint bench

ifneq ($(filter $(TOOL_GOALS),$(MAKECMDGOALS)),)

# PGXS has a goal "check" of its own, so the two halves are never read together:
# with a goal of ours, each goal runs in a make of its own, one after the other.
.NOTPARALLEL:
.PHONY: $(MAKECMDGOALS)

# the scripts start make themselves, and not as a part of this one
TOOL = @MAKEFLAGS= MAKELEVEL= test/tools

help:
	@sed -n 's|^#: \{0,1\}||p' Makefile

#: make demo          builds, syncs a mock directory, shows what came of it
#: make demo-stop     stops what the demo started and removes it
#: make check         builds and runs every test; ends with one summary line
#: make check-long    the same, with longer fuzzing and the slow tests
#: make unit|fuzz|lint  one part of it; FUZZ_SECONDS=60 for each fuzz target
#: make property      random steps against a model; SEQUENCES=1000, SEED=1
#: make bench         measures; see test/bench
#: make deps          installs the Debian packages all of this needs
#: make, make install, make installcheck   as with every PostgreSQL extension
#:
#: PG_CONFIG=/path/to/pg_config   the server to build for, if there are several
#: PARTS="regress tap"            the parts of make check to run
#: TESTS=sync                     only tests with this in their name
#: KEEP=1                         make check keeps its scratch directory

deps:
	$(TOOL)/deps.sh build demo check checkers peers

demo:
	$(TOOL)/demo.sh

demo-stop:
	$(TOOL)/demo.sh stop

check:
	$(TOOL)/check.sh

check-long:
	@MAKEFLAGS= MAKELEVEL= UDS_TEST_LONG=1 FUZZ_SECONDS=$${FUZZ_SECONDS:-120} test/tools/check.sh

unit fuzz property lint:
	@MAKEFLAGS= MAKELEVEL= PARTS=$@ FUZZ_SECONDS=$${FUZZ_SECONDS:-30} test/tools/check.sh

bench:
	$(TOOL)/bench.sh

PGXS_GOALS = $(filter-out $(TOOL_GOALS),$(MAKECMDGOALS))
ifneq ($(PGXS_GOALS),)
$(PGXS_GOALS):
	@$(MAKE) --no-print-directory $@
endif

else

EXTENSION = uds
EXTVERSION = 0.1
MODULE_big = uds

SQL_PARTS = src/sql/tables.sql src/sql/connector.sql src/sql/catalog.sql \
	src/sql/process.sql src/sql/reconcile.sql src/sql/listen.sql src/sql/resources.sql \
	src/sql/history.sql src/sql/explain.sql
CONNECTORS = $(sort $(wildcard src/connectors/*.json))

OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))
DATA_built = uds--$(EXTVERSION).sql
EXTRA_CLEAN = uds--$(EXTVERSION).sql uds--$(EXTVERSION).sql.tmp

# for make installcheck: the server must have shared_preload_libraries = 'uds'
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test
TAP_TESTS = 1
PROVE_TESTS ?= test/t/*.pl
PROVE_FLAGS += -I test/lib

PG_CPPFLAGS = -I$(srcdir)/src $(shell pkg-config --cflags libcurl libcjson libssl libcrypto libmicrohttpd zlib expat ldap lber)
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers \
	-Wno-sign-compare
SHLIB_LINK = $(shell pkg-config --libs libcurl libcjson libssl libcrypto libmicrohttpd zlib expat ldap lber)

# JIT bitcode would need clang and llvm; nothing here is worth inlining
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(error the server's headers were not found by "$(PG_CONFIG) --pgxs": name another with PG_CONFIG=..., or let "make deps" install them)
endif
ifneq ($(shell pkg-config --exists libcurl libcjson libssl libmicrohttpd zlib expat ldap lber 2>/dev/null && echo yes),yes)
$(error pkg-config does not find libcurl, libcjson, libssl, libmicrohttpd, zlib, expat and ldap: "make deps" installs what is missing)
endif
include $(PGXS)

$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h)

# The install script: the parts in order, the manifests as rows, the grants last.
uds--$(EXTVERSION).sql: $(SQL_PARTS) src/sql/grants.sql $(CONNECTORS) src/sql/assemble.sh
	sh $(srcdir)/src/sql/assemble.sh $(SQL_PARTS) -- $(CONNECTORS) -- src/sql/grants.sql > $@.tmp
	mv $@.tmp $@

endif
