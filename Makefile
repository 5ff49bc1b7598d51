# Milonga. `make help` lists the targets. Knobs: CC= SANITIZE=address,undefined DEVELOPER=1 V=1 BUILD= PREFIX= DESTDIR=
# CRASHPOINTS=1: processes that die at a named point (tests/chaos), in build/crash   chaos: SEED= MINUTES= DRIVER=   soak, overload: MINUTES=
# run: ONCE=1 PORT= DATA_DIR= DRIVER=oci|docker IMAGE= RESTFUL_KEY=   system: PYTEST_ARGS=   fuzz: FUZZ_SECONDS=   bench: BENCH_ARGS=
CC       ?= gcc
SANITIZE ?=
comma    := ,
BUILD    ?= build$(if $(SANITIZE),/$(subst $(comma),-,$(SANITIZE)))$(if $(CRASHPOINTS),/crash)
PREFIX   ?= /usr/local
B        := $(BUILD)
Q        := $(if $(V),,@)

PKGS     := hiredis msgpack libcurl uuid libarchive jansson libcrypto expat
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0)
CPPFLAGS += $(if $(CRASHPOINTS),-DMILONGA_CRASHPOINTS) -D_GNU_SOURCE -DH2O_USE_LIBUV=0 -Ilibshared -I$(B)/gen -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wvla -Wundef -Wwrite-strings -Wno-missing-field-initializers $(if $(DEVELOPER),-Werror)
CFLAGS   += -std=gnu11 -O2 -g -fno-common -fstack-protector-strong -fno-omit-frame-pointer -pthread $(WARN) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all,-D_FORTIFY_SOURCE=2)
LDFLAGS  += -pthread $(if $(SANITIZE),-fsanitize=$(SANITIZE))
LDLIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm
MUSL_CC  ?= musl-gcc
# Debian's own, which has the packages that tools/deps installs
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
.PHONY: all deps run test check system kinds states points guards chaos soak overload fuzz model bench lint format install clean deb compose packages help
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
vmm_LIBS := -lssl
test_client_LIBS := -lssl
test_vmm_docker_tls_LIBS := -lssl
$(foreach s,$(SERVICES),$(eval $(call service_rule,$(s))))
$(B)/milonga: $(call obj,$(client_SRC)) $(call obj,$(VMM_LIB_SRC)) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(vmm_LIBS) $(LDLIBS)
# static, without NSS, for any image: musl, never sanitized
$(B)/autodriver: $(AUTODRIVER_SRC) $(wildcard autodriver/*.h) libshared/wire/frame.h
	@mkdir -p $(@D)
	$(Q)$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -Os -g -static -fno-common -fstack-protector-strong $(WARN) -Ilibshared -o $@ $(AUTODRIVER_SRC)

# runs on hosts over ssh, whatever libc they have; musl-gcc hides the kernel's headers
KERNEL_INC := -idirafter /usr/include -idirafter /usr/include/$(shell gcc -print-multiarch)
$(B)/hostdriver: $(HOSTDRIVER_SRC) $(wildcard hostdriver/*.h libshared/base/*.h)
	@mkdir -p $(@D)
	$(Q)$(MUSL_CC) -std=gnu11 -D_GNU_SOURCE -Os -g -static -fno-common -fstack-protector-strong $(WARN) -Ilibshared $(KERNEL_INC) -o $@ $(HOSTDRIVER_SRC)

-include $(shell find $(B)/obj $(B)/fuzz/obj -name '*.d' 2>/dev/null)

deps: ## install what is missing (Debian)
	tools/deps
# what pkg-config says was asked before the packages came: build in a new make
run: ## grade the sample lab, then serve on PORT until Ctrl-C; ONCE=1: only the sample
	@tools/run check
	@tools/deps run
	@$(MAKE) --no-print-directory all
	@BUILD=$(B) tools/run
lint: ## format, limits, includes, shellcheck, clang-tidy
	BUILD=$(B) tools/lint
format: ## rewrite all C as .clang-format says
	find libshared services autodriver hostdriver client tests -name '*.[ch]' | xargs clang-format -i
clean: ## remove BUILD
	rm -rf $(B)
help: ## this
	@sed -n '1,2s/^# //p' Makefile; sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile tests/tests.mk packaging/install.mk | expand -t 12

include tests/tests.mk packaging/install.mk

# for tools/lint
.PHONY: flags generated units
generated: $(LUA_INC)
flags:
	@echo $(CPPFLAGS) $(TELL) $(filter-out -W%,$(CFLAGS))
