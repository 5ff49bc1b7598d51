# Milonga. `make help` lists the targets. Knobs: CC= SANITIZE=address,undefined DEVELOPER=1 V=1 BUILD= PREFIX= DESTDIR=
# CRASHPOINTS=1: processes that die at a named point (tests/chaos), in build/crash   chaos: SEED= MINUTES= DRIVER=
# run: ONCE=1 PORT= DATA_DIR= DRIVER=oci|docker IMAGE= RESTFUL_KEY=   system: PYTEST_ARGS=   fuzz: FUZZ_SECONDS=   bench: BENCH_ARGS=
CC       ?= gcc
SANITIZE ?=
comma    := ,
BUILD    ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))$(if $(CRASHPOINTS),/crash)
PREFIX   ?= /usr/local
# systemd looks in /usr/local/lib too, and for users in /usr/lib only
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
B        := $(BUILD)
Q        := $(if $(V),,@)

PKGS     := hiredis msgpack libcurl uuid libarchive jansson libcrypto
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0)
CPPFLAGS += $(if $(CRASHPOINTS),-DMILONGA_CRASHPOINTS) -D_GNU_SOURCE -DH2O_USE_LIBUV=0 -Ilibshared -I$(B)/gen -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wvla -Wundef -Wwrite-strings -Wno-missing-field-initializers $(if $(DEVELOPER),-Werror)
CFLAGS   += -std=gnu11 -O2 -g -fno-common -fstack-protector-strong -fno-omit-frame-pointer -pthread $(WARN) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all,-D_FORTIFY_SOURCE=2)
LDFLAGS  += -pthread $(if $(SANITIZE),-fsanitize=$(SANITIZE))
LDLIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm
MUSL_CC  ?= musl-gcc
# Debian's own, which has the packages that tools/deps installs
PYTHON   ?= /usr/bin/python3
PYTHON   ?= /usr/bin/python3

LIB_SRC  := $(filter-out $(if $(CRASHPOINTS),,libshared/base/crashpoint.c),$(wildcard libshared/base/*.c libshared/wire/*.c))
SERVICES := api dispatcher vmm
api_SRC        := $(wildcard services/api/*.c)
dispatcher_SRC := $(wildcard services/dispatcher/*.c)
vmm_SRC        := $(wildcard services/vmm/*.c services/vmm/drivers/*.c)
client_SRC     := $(wildcard client/*.c)
VMM_LIB_SRC    := $(filter-out services/vmm/main.c,$(vmm_SRC))
AUTODRIVER_SRC := $(wildcard autodriver/*.c) libshared/wire/frame.c
HOSTDRIVER_SRC := $(wildcard hostdriver/*.c) $(patsubst %,libshared/base/%.c,buf cgroup cgroup_tree clock err mem)
UNIT_SRC       := $(wildcard tests/unit/test_*.c)
FUZZ_SRC       := $(wildcard tests/fuzz/fuzz_*.c)
LUA            := $(foreach s,$(SERVICES),$(wildcard services/$(s)/lua/*.lua))
LUA_INC        := $(patsubst services/%.lua,$(B)/gen/%.inc,$(LUA)) $(B)/gen/api/openapi.inc $(patsubst services/%,$(B)/gen/%.inc,$(wildcard services/api/ui/*))

obj       = $(patsubst %.c,$(B)/obj/%.o,$(1))
LIB      := $(B)/libshared.a
PROGRAMS := $(patsubst %,$(B)/milonga-%,$(SERVICES)) $(B)/milonga $(B)/autodriver $(B)/hostdriver
UNITS    := $(patsubst tests/unit/%.c,$(B)/unit/%,$(UNIT_SRC))

# only who tells it is compiled anew for each commit
VERSIONED := $(shell grep -rl --include='*.c' MILONGA_VERSION libshared services client)
VERSIONED += $(shell grep -rlF $(foreach f,$(VERSIONED),-e '"$(f)"') tests)
TELL      := -DMILONGA_VERSION='"$(VERSION)"'
$(call obj,$(VERSIONED)) $(patsubst %.c,$(B)/fuzz/obj/%.o,$(VERSIONED)): CPPFLAGS += $(TELL)

.SECONDARY:
.PHONY: all deps run test check system points guards chaos fuzz model bench lint format install clean deb compose packages help
all: $(PROGRAMS) ## build everything (default)

$(B)/obj/%.o: %.c | $(LUA_INC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
C_STRING = sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$$/\\n"/'
# services/api/lua/accept.lua -> $(B)/gen/api/lua/accept.inc: an optional "#!lua" line first, then the prelude, then the script
$(B)/gen/%.inc: services/%.lua libshared/lua/prelude.lua
	@mkdir -p $(@D)
	$(Q){ sed -n '1{/^#!lua/p}' $<; cat libshared/lua/prelude.lua; sed '1{/^#!lua/d}' $<; } | $(C_STRING) > $@
$(B)/gen/api/openapi.inc: docs/openapi.yaml
	@mkdir -p $(@D)
	$(Q)$(C_STRING) $< > $@
$(B)/gen/api/ui/%.inc: services/api/ui/%
	@mkdir -p $(@D)
	$(Q)$(C_STRING) $< > $@
$(LIB): $(call obj,$(LIB_SRC))
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

define service_rule
$(B)/milonga-$(1): $$(call obj,$$($(1)_SRC)) $(LIB)
	$$(Q)$$(CC) $$(LDFLAGS) -o $$@ $$^ $$($(1)_LIBS) $$(LDLIBS)
endef
api_LIBS := -lh2o-evloop -lssl
$(foreach s,$(SERVICES),$(eval $(call service_rule,$(s))))
$(B)/milonga: $(call obj,$(client_SRC)) $(call obj,$(VMM_LIB_SRC)) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
# static, without NSS, for any image: musl, never sanitized
$(B)/autodriver: $(AUTODRIVER_SRC) $(wildcard autodriver/*.h) libshared/wire/frame.h
	@mkdir -p $(@D)
	$(Q)$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -Os -g -static -fno-common -fstack-protector-strong $(WARN) -Ilibshared -o $@ $(AUTODRIVER_SRC)

# runs on hosts over ssh, whatever libc they have; musl-gcc hides the kernel's headers
KERNEL_INC := -idirafter /usr/include -idirafter /usr/include/$(shell gcc -print-multiarch)
$(B)/hostdriver: $(HOSTDRIVER_SRC) $(wildcard hostdriver/*.h libshared/base/*.h)
	@mkdir -p $(@D)
	$(Q)$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -Os -g -static -fno-common -fstack-protector-strong $(WARN) -Ilibshared $(KERNEL_INC) -o $@ $(HOSTDRIVER_SRC)

$(B)/unit/%: $(B)/obj/tests/unit/%.o $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS) $($*_LIBS) -lcmocka
# one machine of any driver by hand, for the drivers' own tests
$(B)/driver_probe: $(call obj,tests/system/driver_probe.c $(VMM_LIB_SRC)) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/unit/test_client: $(call obj,$(filter-out client/main.c,$(client_SRC)) $(VMM_LIB_SRC))
$(B)/unit/test_machine: $(call obj,services/vmm/machine.c services/vmm/drivers/null.c services/vmm/drivers/docker_http.c)
$(B)/unit/test_vmm_health $(B)/unit/test_vmm_pool: $(call obj,services/vmm/machine.c)
$(B)/unit/test_docker_self: $(call obj,services/vmm/drivers/docker_self.c services/vmm/drivers/docker_http.c)
$(B)/unit/test_vmm_docker_layout: $(call obj,services/vmm/machine.c services/vmm/image.c services/vmm/image_layer.c services/vmm/image_import.c)
-include $(shell find $(B)/obj $(B)/fuzz/obj -name '*.d' 2>/dev/null)

FUZZERS      := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(FUZZ_SRC))
FUZZ_SECONDS ?= 60
FUZZ_CC       = clang $(CPPFLAGS) $(filter-out -O2 -fsanitize=% -D_FORTIFY_SOURCE=2,$(CFLAGS)) -O1 -fno-sanitize-recover=all
$(B)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer-no-link,address,undefined -MMD -MP -c -o $@ $<
$(B)/fuzz/lib.a: $(patsubst %.c,$(B)/fuzz/obj/%.o,$(LIB_SRC))
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(B)/fuzz/%: tests/fuzz/%.c $(B)/fuzz/lib.a
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer,address,undefined -o $@ $^ $(LDLIBS)

deps: ## install what is missing (Debian)
	tools/deps
# what pkg-config says was asked before the packages came: build in a new make
run: ## grade the sample lab, then serve on PORT until Ctrl-C; ONCE=1: only the sample
	@tools/run check
	@tools/deps run
	@$(MAKE) --no-print-directory all
	@BUILD=$(B) tools/run
test: check system points ## all tests; starts every server that it needs
units: $(UNITS)
check: all $(UNITS) ## unit tests
	@failed=; for t in $(UNITS); do $$t >$$t.log 2>&1 || { cat $$t.log; failed="$$failed $$t"; }; done; \
	  [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }; echo "$(words $(UNITS)) unit test programs passed"
system: all $(B)/driver_probe ## tests of the real programs on real servers, as root
	MILONGA_BUILD=$(abspath $(B)) AUTODRIVER=$(abspath $(B))/autodriver $(PYTHON) -m pytest -q -n 2 --dist loadgroup tests/system -m "not compose and not packages" $(PYTEST_ARGS)
compose: all ## docker-compose.yml from nothing to nothing, on an engine of its own, as root
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) -m pytest -q tests/system/test_compose.py -m compose $(PYTEST_ARGS)
packages: ## the Debian package built, judged, installed and removed, as root
	$(PYTHON) -m pytest -q tests/system/test_deb.py -m packages $(PYTEST_ARGS)
points: ## every crash point: all on null, those of machines on oci and docker; the judge's own tests
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	$(PYTHON) -m pytest -q tests/chaos
	MILONGA_BUILD=$(abspath $(B))/crash $(PYTHON) tests/chaos/points.py $(or $(POINTS_ARGS),--short)
guards: ## builds with one guard taken out each, which the judge has to notice
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	MILONGA_BUILD=$(abspath $(B))/crash CC="$(CC)" $(PYTHON) tests/chaos/guards.py
chaos: all ## services under load and faults for MINUTES by the plan of SEED; DRIVER=null|oci|docker
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/chaos/chaos.py $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),1) --driver $(or $(DRIVER),null) $(CHAOS_ARGS)
model: ## the protocol's model, whole and without each of its guards (docs/model.md)
	tests/model/run $(MODEL_ARGS)
fuzz: $(FUZZERS) ## each fuzzer for FUZZ_SECONDS
	@for f in $(FUZZERS); do mkdir -p $$f.corpus; echo "$$f: $(FUZZ_SECONDS) s"; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=$$f. $$f.corpus >$$f.log 2>&1 || \
	  { tail -60 $$f.log; exit 1; }; grep executed_units $$f.log; done
bench: all ## ratios to the bare engines, and rates
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/bench/bench.py $(BENCH_ARGS)
lint: ## format, limits, includes, shellcheck, clang-tidy
	BUILD=$(B) tools/lint
format: ## rewrite all C as .clang-format says
	find libshared services autodriver hostdriver client tests -name '*.[ch]' | xargs clang-format -i
install: all ## to DESTDIR and PREFIX; the autodriver lies beside the vmm
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/milonga $(DESTDIR)$(PREFIX)/share/doc/milonga $(DESTDIR)/etc/milonga
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR)
	install $(B)/milonga tools/milonga-from-tango $(DESTDIR)$(PREFIX)/bin
	install $(patsubst %,$(B)/milonga-%,$(SERVICES)) $(B)/autodriver $(B)/hostdriver $(DESTDIR)$(PREFIX)/libexec/milonga
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 contrib/completion/milonga.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/milonga
	install -m 644 README.md CHANGELOG.md LICENSE docs/*.md $(DESTDIR)$(PREFIX)/share/doc/milonga
	for u in packaging/systemd/milonga*.service packaging/systemd/milonga*.socket packaging/systemd/milonga.target; do \
	  sed 's,@LIBEXECDIR@,$(PREFIX)/libexec/milonga,' $$u >$(DESTDIR)$(UNITDIR)/$${u##*/} && chmod 644 $(DESTDIR)$(UNITDIR)/$${u##*/} || exit 1; done
	install -m 644 packaging/systemd/milonga.sysusers $(DESTDIR)$(SYSUSERSDIR)/milonga.conf
	[ -e $(DESTDIR)/etc/milonga/milonga.conf ] || install -m 600 milonga.conf $(DESTDIR)/etc/milonga
deb: ## the Debian package of what is committed, into BUILD/debian; needs nothing from outside
	@command -v dh >/dev/null || { echo "make deb needs debhelper and dpkg-dev: make deps" >&2; exit 1; }
	@rm -rf $(B)/debian && mkdir -p $(B)/debian/milonga && git archive HEAD | tar -xC $(B)/debian/milonga
	cd $(B)/debian/milonga && env -u MAKEFLAGS -u MAKELEVEL -u B -u BUILD dpkg-buildpackage -us -uc -b -rfakeroot
	@ls $(B)/debian/*.deb
clean: ## remove BUILD
	rm -rf $(B)
help: ## this
	@sed -n '1,2s/^# //p' Makefile; sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 12

# for tools/lint
.PHONY: flags generated units
generated: $(LUA_INC)
flags:
	@echo $(CPPFLAGS) $(TELL) $(filter-out -W%,$(CFLAGS))
