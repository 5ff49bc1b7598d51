/* Whose fault a failure is, and when a backend counts as broken. The clock, the backend and what is
 * told are the test's. */

#include "base/clock.h"

static int64_t now_ms = 1000;
#define clock_mono_ms()             now_ms
#define clock_backoff_ms(n, b, cap) ((n) > 6 ? (cap) : (int64_t)(b) << (n))
#include "services/vmm/health.c"
#undef clock_mono_ms
#undef clock_backoff_ms
#include "services/vmm/sync.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static char word[AGENT_WHY_MAX]; /* what the agent says of the backend; "" sound */
static char told[AGENT_WHY_MAX]; /* the same, as Redis has it */
static bool away;                /* the driver's own check fails */
static bool makes;               /* a probe makes a machine */
static unsigned probes;

void agent_set_broken(struct agent *a, const char *why)
{
    (void)a;
    snprintf(word, sizeof(word), "%s", why ? why : "");
}

void agent_tell_drain(struct agent *a)
{
    (void)a;
    memcpy(told, word, sizeof(told));
}

void watch_poke(struct watch *w, bool tell_too)
{
    (void)w;
    (void)tell_too;
}

void pool_poke(struct pool *p, bool wishes)
{
    (void)p;
    (void)wishes;
}

char *watch_image(struct watch *w, const char *name)
{
    (void)w;
    return xasprintf("digest of %s", name);
}

char *watch_other_image(struct watch *w, const char *name)
{
    (void)w;
    return strcmp(name, "other") == 0 ? NULL : xstrdup("other");
}

struct machine_shape vmm_default_shape(const struct vmm *v, char *image, char *digest)
{
    (void)v;
    return (struct machine_shape){.image = image, .digest = digest};
}

int fleet_begin(struct fleet *f, const struct machine_shape *shape, struct machine_spec *ret,
                struct error *err)
{
    (void)f;
    (void)err;
    ret->shape = *shape;
    return 0;
}

void fleet_end(struct fleet *f, const char *name)
{
    (void)f;
    (void)name;
}

int pipe_ready(struct machine *m, int64_t deadline, int stop_fd, struct error *err)
{
    (void)m;
    (void)deadline;
    (void)stop_fd;
    (void)err;
    return 0;
}

void reaper_hand(struct reaper *r, struct machine *m)
{
    (void)r;
    machine_free(m);
}

static int check(struct backend *b, struct error *err)
{
    (void)b;
    return away ? err_set(err, ERR_TEMPORARY, ECONNREFUSED, "no engine") : 0;
}

static int try(struct backend *b, struct error *err)
{
    (void)b;
    probes++;
    return makes ? 0 : err_set(err, ERR_TEMPORARY, EIO, "no machine");
}

static char bad_image[32];

static int initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err)
{
    (void)deadline;
    (void)cancel_fd;
    probes++;
    if (strcmp(spec->shape.image, bad_image) == 0)
        return err_set(err, ERR_TEMPORARY, EIO, "a bad image");
    *ret = machine_new(NULL, b, spec);
    return 0;
}

static const struct driver fake = {.health = check, .probe = try};
static const struct driver by_image = {.health = check, .initialize = initialize};
static const struct config cfg;
static struct vmm v = {.cfg = &cfg, .driver = &fake};
static const struct error eio = {.class = ERR_TEMPORARY, .code = EIO, .msg = "it failed"};
static const struct error permanent = {.class = ERR_PERMANENT, .code = EIO, .msg = "for good"};

static struct health *begin(const struct driver *d)
{
    v.driver = d;
    word[0] = told[0] = '\0';
    away = makes = false;
    probes = 0;
    struct health *h = health_new(&v);
    v.health = h;
    return h;
}

static void test_one_job_breaks_nothing(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    makes = true;
    assert_false(health_failed(h, "job 1", "img", &permanent)); /* nobody knows yet */
    assert_true(health_ok(h));
    assert_true(health_due(h) <= now_ms);
    health_look(h);
    assert_int_equal(probes, 1);
    assert_int_equal(health_due(h), CLOCK_NEVER);
    for (int i = 0; i < 5; i++) { /* now it is known to be its own */
        assert_true(health_failed(h, "job 1", "img", &permanent));
        health_look(h);
    }
    assert_true(health_ok(h));
    assert_string_equal(told, "");
    health_free(h);
}

static void test_three_in_a_row(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    assert_false(health_failed(h, "job 1", "img", &eio));
    assert_false(health_failed(h, "job 2", "img", &eio));
    assert_false(health_failed(h, "job 2", "img", &eio)); /* the same one says nothing new */
    assert_true(health_ok(h));
    assert_false(health_failed(h, "job 3", "img", &eio));
    assert_false(health_ok(h));
    assert_string_equal(told, "backend: it failed");
    assert_false(health_failed(h, "job 1", "img", &eio)); /* nobody is charged */

    int64_t due = health_due(h);
    assert_true(due > now_ms);
    health_look(h); /* not yet */
    assert_int_equal(probes, 0);
    now_ms = due;
    health_look(h);
    assert_int_equal(probes, 1);
    assert_true(health_due(h) - now_ms > due - 1000); /* backs off */
    makes = true;
    now_ms = health_due(h);
    health_look(h);
    assert_true(health_ok(h));
    assert_string_equal(told, "");
    health_free(h);
}

/* All tenants read it. */
static void test_no_name_of_a_tenant_s_image(void **state)
{
    static const struct error named = {
        .class = ERR_TEMPORARY, .code = EIO, .msg = "no csU1.tenant.milonga.invalid/g:1 here"};
    struct health *h = begin(&fake);
    (void)state;
    health_failed(h, "job 1", "img", &named);
    health_failed(h, "job 2", "img", &named);
    health_failed(h, "job 3", "img", &named);
    assert_string_equal(told, "backend: no [image] here");
    health_free(h);
}

/* A single job on a quiet worker: its own probes tell. */
static void test_probes_count(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    assert_false(health_failed(h, "job 1", "img", &eio));
    health_look(h);
    now_ms = health_due(h);
    assert_true(health_ok(h));
    health_look(h);
    assert_false(health_ok(h));
    assert_string_equal(told, "backend: no machine");
    assert_false(health_failed(h, "job 1", "img", &eio));
    health_free(h);
}

static void test_a_machine_clears(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    health_failed(h, "job 1", "img", &eio);
    health_failed(h, "job 2", "img", &eio);
    health_made(h, "job 3", "img");
    assert_false(health_failed(h, "job 4", "img", &eio));
    assert_true(health_ok(h));
    assert_true(health_failed(h, "job 1", "img", &eio)); /* others could */
    health_made(h, "job 1", "img");
    assert_false(health_failed(h, "job 1", "img", &eio));
    health_free(h);
}

static void test_backend_away(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    away = true;
    for (int i = 0; i < 20; i++)
        assert_false(health_failed(h, "job 1", "img", &eio));
    assert_string_equal(told, "backend: no engine");
    assert_true(health_due(h) - now_ms <= BACKOFF_BASE_MS); /* many saw one fault */
    now_ms = health_due(h);
    health_look(h);
    assert_int_equal(probes, 0);
    away = false;
    makes = true;
    now_ms = health_due(h);
    health_look(h);
    assert_true(health_ok(h));
    health_free(h);
}

/* What was learned while a probe was under way is younger than it. */
static void test_late_probe(void **state)
{
    struct health *h = begin(&fake);
    struct error none = ERROR_INIT;
    (void)state;
    away = true;
    health_lost_machine(h);
    uint64_t serial = h->serial;
    now_ms = health_due(h);
    health_lost_machine(h);
    learn(h, serial, 0, &none);
    assert_false(health_ok(h));
    assert_string_equal(word, "backend: no engine");
    assert_true(health_due(h) > now_ms);
    health_free(h);
}

/* A vmm that ends asks its backend nothing more. */
static void test_stopped(void **state)
{
    struct health *h = begin(&fake);
    (void)state;
    health_failed(h, "job 1", "img", &eio);
    assert_true(health_due(h) <= now_ms);
    health_stop(h);
    away = true;
    health_look(h);
    assert_int_equal(probes, 0);
    assert_string_equal(word, "");
    health_free(h);
}

static void test_one_bad_image(void **state)
{
    struct health *h = begin(&by_image);
    (void)state;
    snprintf(bad_image, sizeof(bad_image), "img");
    health_failed(h, "job 1", "img", &eio);
    health_failed(h, "job 2", "img", &eio);
    health_failed(h, "job 3", "img", &eio);
    assert_false(health_ok(h));
    now_ms = health_due(h);
    health_look(h); /* of the other image one can be made */
    assert_true(health_ok(h));
    assert_true(health_failed(h, "job 2", "img", &eio));
    assert_true(health_ok(h));
    health_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_job_breaks_nothing),
        cmocka_unit_test(test_three_in_a_row),
        cmocka_unit_test(test_no_name_of_a_tenant_s_image),
        cmocka_unit_test(test_probes_count),
        cmocka_unit_test(test_a_machine_clears),
        cmocka_unit_test(test_backend_away),
        cmocka_unit_test(test_late_probe),
        cmocka_unit_test(test_one_bad_image),
        cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
