/* A set of hosts with a kind of the test's own: who gets a machine, whose fault a failure is, and
 * what a host that fails costs. */
#include "services/vmm/drivers/hosts.h"

#include "base/clock.h"
#include "base/log.h"
#include "services/vmm/sync.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum how { MAKES, FAILS, REFUSES, SLOW, HANGS };

static enum how how[2];       /* a machine on the host */
static atomic_int proof[2];   /* 0: one can be made as a proof */
static atomic_uint proofs[2]; /* made or not */
static atomic_uint connections[2];
static atomic_bool silent[2]; /* its engine does not tell its images */

static size_t number(const struct host *h)
{
    return (size_t)(h->spec->name[1] - '1');
}

static int connect_host(struct host *h, struct error *err)
{
    atomic_fetch_add(&connections[number(h)], 1);
    if (atomic_load(&proof[number(h)]))
        return err_set(err, ERR_TEMPORARY, EIO, "out of order");
    return host_ask_images(h, err);
}

static bool serve(struct host *h)
{
    struct pollfd p[2] = {{.fd = h->set->stop_fd, .events = POLLIN},
                          {.fd = h->wake_fd, .events = POLLIN}};

    for (;;) {
        poll(p, 2, -1);
        event_clear(h->wake_fd);
        if (p[0].revents || !host_is_good(h))
            return false;
    }
}

static void disconnect(struct host *h, bool kindly, const struct error *why)
{
    (void)h, (void)kindly, (void)why;
}

static int prove(struct host *h, struct error *err)
{
    int code = atomic_load(&proof[number(h)]);

    atomic_fetch_add(&proofs[number(h)], 1);
    return code ? err_set(err, ERR_TEMPORARY, code, "no proof") : 0;
}

static int make(struct host_place *at, const struct machine_spec *spec, int64_t deadline,
                int cancel_fd, struct machine **ret, struct error *err)
{
    size_t n = number(at->host);

    if (how[n] == HANGS || how[n] == SLOW)
        event_wait(cancel_fd, how[n] == SLOW ? deadline - 50 : deadline);
    if (how[n] == FAILS || how[n] == HANGS || how[n] == SLOW)
        return err_set(err, ERR_TEMPORARY, how[n] == FAILS ? EIO : ETIMEDOUT, "host %zu hiccups",
                       n + 1);
    if (how[n] == REFUSES)
        return err_set(err, ERR_REFUSED, EINVAL, "host %zu refuses", n + 1);
    *ret = machine_new(&driver_null, NULL, spec);
    (*ret)->priv = at->host;
    return 0;
}

static int ask_images(struct host *h, struct host_images *ret, struct error *err)
{
    if (atomic_load(&silent[number(h)]))
        return err_set(err, ERR_TEMPORARY, EIO, "no list");
    host_images_add(ret, "img", 3, "sha256:1");
    if (number(h) == 1)
        host_images_add(ret, "two", 3, "sha256:2");
    return 0;
}

static const struct host_kind kind = {
    .place_size = sizeof(struct host_place),
    .connect = connect_host,
    .serve = serve,
    .disconnect = disconnect,
    .prove = prove,
    .make = make,
    .ask_images = ask_images,
};

static struct config cfg = {.labels = (char[]){""}, .retry_cap_ms = 500};
static struct config_ssh_host specs[2] = {
    {.name = (char[]){"h1"}, .address = (char[]){""}, .labels = (char[]){"near"}, .slots = 2},
    {.name = (char[]){"h2"}, .address = (char[]){""}, .labels = (char[]){""}, .slots = 1},
};
static struct hosts set;
static struct host hosts[2];

static int begin_with(void **state, bool untold)
{
    struct error err = ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        how[i] = MAKES;
        atomic_store(&proof[i], 0);
        atomic_store(&proofs[i], 0);
        atomic_store(&connections[i], 0);
        atomic_store(&silent[i], untold && i == 0);
        hosts[i] = (struct host){0};
    }
    if (hosts_init(&set, &cfg, &kind, &err) < 0)
        return -1;
    for (size_t i = 0; i < 2; i++)
        if (hosts_add(&set, &hosts[i], &specs[i], &err) < 0)
            return -1;
    if (hosts_start(&set, &err) < 0)
        return -1;
    hosts_await_first(&set, clock_mono_ms() + 5000, -1);
    return 0;
}

static int begin(void **state)
{
    return begin_with(state, false);
}

static int end(void **state)
{
    (void)state;
    hosts_done(&set);
    return 0;
}

/* An engine of host 1 that was not spoken to yet. */
static int begin_untold(void **state)
{
    return begin_with(state, true);
}

static void on_full(void *arg)
{
    ++*(unsigned *)arg;
}

/* The host that made it, NULL with *err. `full`: counts how often room was waited for; NULL: does
 * not wait. */
static struct host *get_with(const char *label, const char *digest, int64_t ms, unsigned *full,
                             struct error *err)
{
    char d[96];
    struct machine_spec spec = {.shape = {.image = d, .digest = d},
                                .labels = &label,
                                .label_ct = label != NULL,
                                .full = full ? on_full : NULL,
                                .full_arg = full};
    struct machine *m = NULL;

    snprintf(d, sizeof(d), "%s", digest);
    *err = (struct error)ERROR_INIT;
    if (hosts_initialize(&set, &spec, clock_mono_ms() + ms, -1, &m, err) < 0)
        return NULL;
    struct host *h = m->priv;
    machine_free(m);
    return h;
}

static struct host *get(const char *digest, int64_t ms, unsigned *full, struct error *err)
{
    return get_with(NULL, digest, ms, full, err);
}

static void put(struct host *h)
{
    hosts_vacate(&(struct host_place){.host = h, .life = h->life});
}

static bool is_state(const struct host *h, enum host_state want)
{
    pthread_mutex_lock(&set.lock);
    bool is = h->state == want;
    pthread_mutex_unlock(&set.lock);
    return is;
}

static void await_state(const struct host *h, enum host_state want)
{
    int64_t deadline = clock_mono_ms() + 5000;

    while (!is_state(h, want) && clock_mono_ms() < deadline)
        poll(NULL, 0, 1);
    assert_true(is_state(h, want));
}

static void test_the_emptiest_that_has_the_image(void **state)
{
    struct error err;

    (void)state;
    assert_ptr_equal(get("sha256:1", 1000, NULL, &err), &hosts[0]);
    assert_ptr_equal(get("sha256:1", 1000, NULL, &err), &hosts[1]);
    assert_ptr_equal(get("sha256:1", 1000, NULL, &err), &hosts[0]);
    assert_null(get("sha256:1", 1000, NULL, &err));
    assert_int_equal(err.code, EBUSY);
    put(&hosts[1]);
    assert_ptr_equal(get("sha256:2", 1000, NULL, &err), &hosts[1]);
    assert_null(get("sha256:3", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_REFUSED);
}

/* No room in time is nobody's failure. */
static void test_waiting_for_room_is_not_charged(void **state)
{
    struct error err;
    unsigned full = 0;

    (void)state;
    assert_ptr_equal(get("sha256:2", 1000, NULL, &err), &hosts[1]);
    for (int i = 0; i < 4; i++) {
        assert_null(get("sha256:2", 60, &full, &err));
        assert_int_equal(err.code, EAGAIN);
    }
    assert_true(full >= 4);
    assert_int_equal(hosts[1].failures, 0);
    put(&hosts[1]);
    assert_ptr_equal(get("sha256:2", 60, &full, &err), &hosts[1]);
}

/* What one refuses another might have made, had it not hiccupped; and the other way round. */
static void test_refused_only_by_all(void **state)
{
    struct error err;

    (void)state;
    how[0] = FAILS;
    how[1] = REFUSES;
    assert_null(get("sha256:1", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_string_equal(err.msg, "host 1 hiccups");
    how[0] = REFUSES;
    how[1] = FAILS;
    assert_null(get("sha256:1", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_TEMPORARY);
    how[1] = REFUSES;
    assert_null(get("sha256:1", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_REFUSED);
    how[1] = MAKES;
    assert_ptr_equal(get("sha256:1", 1000, NULL, &err), &hosts[1]);
}

/* What a host that was never reached has is not known: to refuse a job for it would be final. */
static void test_nothing_is_refused_for_a_host_that_has_not_told(void **state)
{
    struct error err;

    (void)state;
    assert_true(is_state(&hosts[0], HOST_OUT));
    assert_null(get_with("near", "sha256:1", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(err.code, EAGAIN);
    assert_non_null(strstr(err.msg, "h1: no list"));
    assert_null(get("sha256:3", 1000, NULL, &err));
    assert_int_equal(err.code, EAGAIN);
    assert_ptr_equal(get("sha256:1", 1000, NULL, &err), &hosts[1]);
    atomic_store(&silent[0], false);
    await_state(&hosts[0], HOST_UP);
    assert_ptr_equal(get_with("near", "sha256:1", 1000, NULL, &err), &hosts[0]);
    assert_null(get("sha256:3", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_REFUSED);
}

/* The worker is known for both, and a job that no host can take here may have a place elsewhere. */
static void test_labels_and_image_on_different_hosts_refuse_nothing(void **state)
{
    struct error err;

    (void)state;
    assert_null(get_with("near", "sha256:2", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(err.code, EAGAIN);
    assert_null(get_with("far", "sha256:2", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_REFUSED);
    assert_null(get_with("near", "sha256:3", 1000, NULL, &err));
    assert_int_equal(err.class, ERR_REFUSED);
}

static void test_a_bad_image_dooms_no_host(void **state)
{
    struct error err;

    (void)state;
    how[1] = FAILS;
    for (unsigned round = 1; round <= 3; round++) {
        for (int i = 0; i < 3; i++)
            assert_null(get("sha256:2", 1000, NULL, &err));
        for (int64_t until = clock_mono_ms() + 5000;
             atomic_load(&proofs[1]) < round && clock_mono_ms() < until;)
            poll(NULL, 0, 1);
        assert_int_equal(atomic_load(&proofs[1]), round);
        await_state(&hosts[1], HOST_UP);
    }
    assert_int_equal(atomic_load(&connections[1]), 1);
}

static void test_a_bad_host_is_out_and_comes_back(void **state)
{
    struct error err;
    unsigned full = 0;

    (void)state;
    how[1] = FAILS;
    atomic_store(&proof[1], EIO);
    for (int i = 0; i < 3; i++)
        assert_null(get("sha256:2", 1000, NULL, &err));
    await_state(&hosts[1], HOST_OUT);
    assert_true(atomic_load(&proofs[1]) == 1);
    assert_true(is_state(&hosts[0], HOST_UP));
    assert_null(get("sha256:2", 1000, &full, &err));
    assert_int_equal(err.code, EAGAIN); /* it may come back */
    how[1] = MAKES;
    atomic_store(&proof[1], 0);
    await_state(&hosts[1], HOST_UP);
    assert_true(atomic_load(&connections[1]) >= 2);
    assert_ptr_equal(get("sha256:2", 1000, &full, &err), &hosts[1]);
}

/* While it is found out, it gets none, and whoever has no other place waits. */
static void test_a_doubted_host_is_waited_for(void **state)
{
    struct error err;
    unsigned full = 0;

    (void)state;
    pthread_mutex_lock(&set.lock);
    hosts[1].state = HOST_DOUBTED;
    pthread_mutex_unlock(&set.lock);
    assert_null(get("sha256:2", 60, &full, &err));
    assert_int_equal(err.code, EAGAIN);
    assert_int_equal(atomic_load(&proofs[1]), 0);
    event_signal(hosts[1].wake_fd);
    await_state(&hosts[1], HOST_UP);
    assert_ptr_equal(get("sha256:2", 1000, &full, &err), &hosts[1]);
}

/* The second one has next to nothing of the time. */
static void test_a_slow_host_leaves_the_next_one_no_blame(void **state)
{
    struct error err;

    (void)state;
    how[0] = SLOW;
    how[1] = HANGS;
    assert_null(get("sha256:1", 200, NULL, &err));
    assert_int_equal(err.code, ETIMEDOUT);
    assert_int_equal(hosts[0].failures, 1);
    assert_int_equal(hosts[1].failures, 0);
    assert_null(get("sha256:2", 200, NULL, &err)); /* but here it is its own */
    assert_int_equal(hosts[1].failures, 1);
}

struct seen {
    unsigned ct;
};

static void count(void *arg, const struct image_entry *e)
{
    (void)e;
    ((struct seen *)arg)->ct++;
}

static void test_an_engine_that_tells_no_images_keeps_its_jobs(void **state)
{
    struct seen seen = {0};
    struct error err;

    (void)state;
    atomic_store(&silent[1], true);
    host_forget_images(&hosts[1]);
    hosts_images(&set, count, &seen);
    assert_int_equal(seen.ct, 2); /* the last known, and each name once */
    assert_true(is_state(&hosts[1], HOST_UP));
    assert_ptr_equal(get("sha256:2", 1000, NULL, &err), &hosts[1]);
    assert_int_equal(atomic_load(&connections[1]), 1);
}

static void test_a_place_of_a_life_that_is_over_counts_no_more(void **state)
{
    struct error err;

    (void)state;
    struct host *h = get("sha256:2", 1000, NULL, &err);
    struct host_place at = {.host = h, .life = h->life};
    host_doom(h, h->life, "gone");
    await_state(h, HOST_OUT);
    await_state(h, HOST_UP);
    assert_int_equal(h->busy, 0);
    hosts_vacate(&at);
    assert_int_equal(h->busy, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_emptiest_that_has_the_image, begin, end),
        cmocka_unit_test_setup_teardown(test_waiting_for_room_is_not_charged, begin, end),
        cmocka_unit_test_setup_teardown(test_refused_only_by_all, begin, end),
        cmocka_unit_test_setup_teardown(test_nothing_is_refused_for_a_host_that_has_not_told,
                                        begin_untold, end),
        cmocka_unit_test_setup_teardown(test_labels_and_image_on_different_hosts_refuse_nothing,
                                        begin, end),
        cmocka_unit_test_setup_teardown(test_a_bad_image_dooms_no_host, begin, end),
        cmocka_unit_test_setup_teardown(test_a_bad_host_is_out_and_comes_back, begin, end),
        cmocka_unit_test_setup_teardown(test_a_doubted_host_is_waited_for, begin, end),
        cmocka_unit_test_setup_teardown(test_a_slow_host_leaves_the_next_one_no_blame, begin, end),
        cmocka_unit_test_setup_teardown(test_an_engine_that_tells_no_images_keeps_its_jobs, begin,
                                        end),
        cmocka_unit_test_setup_teardown(test_a_place_of_a_life_that_is_over_counts_no_more, begin,
                                        end),
    };

    log_setup("unit", LOG_ERROR_, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
