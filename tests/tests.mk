# How the tests are built and run; part of the Makefile.

$(B)/unit/%: $(B)/obj/tests/unit/%.o $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS) $($*_LIBS) -lcmocka
# one machine of any driver by hand, for the drivers' own tests
$(B)/driver_probe: $(call obj,tests/system/driver_probe.c $(VMM_LIB_SRC)) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(vmm_LIBS) $(LDLIBS)
$(B)/unit/test_client: $(call obj,$(filter-out client/main.c,$(client_SRC)) $(VMM_LIB_SRC))
$(B)/unit/test_machine: $(call obj,services/vmm/machine.c services/vmm/drivers/null.c services/vmm/drivers/docker_http.c)
$(B)/unit/test_vmm_health $(B)/unit/test_vmm_pool: $(call obj,services/vmm/machine.c)
$(B)/unit/test_docker_self: $(call obj,services/vmm/drivers/docker_self.c services/vmm/drivers/docker_http.c)
$(B)/unit/test_vmm_ec2: $(call obj,services/vmm/sync.c services/vmm/drivers/ec2_api.c services/vmm/drivers/ec2_keys.c services/vmm/drivers/ec2_xml.c)
$(B)/unit/test_vmm_hosts: $(call obj,services/vmm/machine.c services/vmm/sync.c services/vmm/drivers/hosts.c services/vmm/drivers/hosts_life.c services/vmm/drivers/null.c)
$(B)/unit/test_vmm_docker_layout: $(call obj,services/vmm/machine.c services/vmm/image.c services/vmm/image_layer.c services/vmm/image_import.c)

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


test: check system states ## all tests; starts every server that it needs
units: $(UNITS)
check: all $(UNITS) ## unit tests
	@failed=; for t in $(UNITS); do $$t >$$t.log 2>&1 || { cat $$t.log; failed="$$failed $$t"; }; done; \
	  [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }; echo "$(words $(UNITS)) unit test programs passed"
system: all $(B)/driver_probe ## tests of the real programs on real servers, as root
	MILONGA_BUILD=$(abspath $(B)) AUTODRIVER=$(abspath $(B))/autodriver $(PYTHON) -m pytest -q -n 2 --dist loadgroup tests/system -m "not compose and not packages and not kinds" $(PYTEST_ARGS)
compose: all ## docker-compose.yml from nothing to nothing, on an engine of its own, as root
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) -m pytest -q tests/system/test_compose.py -m compose $(PYTEST_ARGS)
packages: ## the Debian package built, judged, installed and removed, as root
	$(PYTHON) -m pytest -q tests/system/test_deb.py -m packages $(PYTEST_ARGS)
kinds: ## every kind of machine through one suite, and the table of it; KINDS=oci,ssh-direct for some of them; root
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	MILONGA_BUILD=$(abspath $(B))/crash MILONGA_KINDS=$(KINDS) $(PYTHON) -m pytest -q -rN -n 2 --dist loadgroup tests/system/kinds -m kinds $(PYTEST_ARGS)
states: ## each process killed in each state of a job, on oci and docker; the judge's own tests
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	$(PYTHON) -m pytest -q tests/chaos
	MILONGA_BUILD=$(abspath $(B))/crash $(PYTHON) tests/chaos/points.py --states
points: ## crash points: all on null, most on oci, those of machines on docker
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	MILONGA_BUILD=$(abspath $(B))/crash $(PYTHON) tests/chaos/points.py $(or $(POINTS_ARGS),--short)
guards: ## builds with one guard taken out each, which the judge has to notice
	@$(MAKE) --no-print-directory BUILD=$(B)/crash CRASHPOINTS=1 all
	MILONGA_BUILD=$(abspath $(B))/crash CC="$(CC)" $(PYTHON) tests/chaos/guards.py
chaos: all ## services under load and faults for MINUTES by the plan of SEED; DRIVER=null|oci|docker
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/chaos/chaos.py $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),1) --driver $(or $(DRIVER),null) $(CHAOS_ARGS)
overload: all ## ten times what the machines can do for MINUTES (3): what is done, what is refused, what grows
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/chaos/overload.py --minutes $(or $(MINUTES),3) $(OVERLOAD_ARGS)
soak: all ## modest load for MINUTES (60): memory, descriptors and threads come back to where they began
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/chaos/soak.py --minutes $(or $(MINUTES),60) $(SOAK_ARGS)
model: ## the protocol's model, whole and without each of its guards (docs/model.md)
	tests/model/run $(MODEL_ARGS)
fuzz: $(FUZZERS) ## each fuzzer for FUZZ_SECONDS
	@for f in $(FUZZERS); do mkdir -p $$f.corpus; echo "$$f: $(FUZZ_SECONDS) s"; \
	  $$f -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=$$f. $$f.corpus >$$f.log 2>&1 || \
	  { tail -60 $$f.log; exit 1; }; grep executed_units $$f.log; done
bench: all ## ratios to the bare engines, and rates
	MILONGA_BUILD=$(abspath $(B)) $(PYTHON) tests/bench/bench.py $(BENCH_ARGS)
