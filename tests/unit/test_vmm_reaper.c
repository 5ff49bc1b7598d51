/* Strays at the backend: who is removed, when, and who is spared. Time and backend are the test's.
 */

#include "base/clock.h"

static int64_t now_ms = 1000;
#define clock_mono_ms() now_ms
#include "services/vmm/reaper.c"
#undef clock_mono_ms
#include "services/vmm/sync.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const char *there[8]; /* at the backend */
static const char *known;    /* to the fleet */
static char removed[256];
static const char *immovable;

bool fleet_knows(struct fleet *f, const char *name)
{
    (void)f;
    return known && strcmp(name, known) == 0;
}

void fleet_role(struct fleet *f, const char *name, enum fleet_role role)
{
    (void)f;
    (void)name;
    (void)role;
}

static char ended[256];

void fleet_end(struct fleet *f, const char *name)
{
    (void)f;
    snprintf(ended, sizeof(ended), "%s", name);
}

static int list(struct backend *b, void (*each)(void *arg, const char *name), void *arg,
                struct error *err)
{
    (void)b;
    for (size_t i = 0; i < ARRAY_SIZE(there) && there[i]; i++) {
        if (strcmp(there[i], "FAIL") == 0)
            return err_set(err, ERR_TEMPORARY, EIO, "no answer");
        each(arg, there[i]);
    }
    return 0;
}

static int reap(struct backend *b, const char *name, struct error *err)
{
    (void)b;
    if (immovable && strcmp(name, immovable) == 0)
        return err_set(err, ERR_TEMPORARY, EBUSY, "busy");
    strcat(removed, name);
    strcat(removed, " ");
    return 0;
}

static void destroy_machine(struct machine *m, int64_t deadline)
{
    (void)deadline;
    free(m);
}

static const struct driver fake = {
    .name = "fake", .list = list, .reap = reap, .destroy = destroy_machine};
static const struct config cfg = {.warm_max = 0, .destroy_timeout_ms = 1000};
static struct vmm v = {.cfg = &cfg, .slot_ct = 1, .driver = &fake};

static void reset(const char *a, const char *b)
{
    memset(there, 0, sizeof(there));
    there[0] = a;
    there[1] = b;
    known = immovable = NULL;
    removed[0] = '\0';
}

static void test_earlier_life_goes_at_once(void **state)
{
    (void)state;
    reset("a", "b");
    assert_int_equal(reaper_sweep_all(&v, NULL), 0);
    assert_string_equal(removed, "a b ");
    reset("a", "b");
    immovable = "a";
    assert_true(reaper_sweep_all(&v, NULL) < 0); /* and is tried again before anything starts */
    assert_string_equal(removed, "b ");
}

static void test_grace(void **state)
{
    (void)state;
    struct reaper *r = reaper_new(&v);
    reset("stray", "ours");
    known = "ours";
    assert_int_equal(reaper_sweep(r, NULL), 1);
    assert_string_equal(removed, "");
    now_ms += GRACE_MS - 1;
    assert_int_equal(reaper_sweep(r, NULL), 1);
    assert_string_equal(removed, "");
    now_ms += 1;
    assert_int_equal(reaper_sweep(r, NULL), 0);
    assert_string_equal(removed, "stray ");
    reaper_free(r);
}

/* A name that went and came again is a new machine: its grace begins anew. */
static void test_grace_is_not_inherited(void **state)
{
    (void)state;
    struct reaper *r = reaper_new(&v);
    reset("x", NULL);
    assert_int_equal(reaper_sweep(r, NULL), 1);
    reset(NULL, NULL);
    now_ms += GRACE_MS;
    assert_int_equal(reaper_sweep(r, NULL), 0);
    reset("x", NULL);
    now_ms += GRACE_MS;
    assert_int_equal(reaper_sweep(r, NULL), 1);
    assert_string_equal(removed, "");
    reaper_free(r);
}

static void test_backend_away(void **state)
{
    struct error err = ERROR_INIT;
    (void)state;
    struct reaper *r = reaper_new(&v);
    reset("x", "FAIL");
    assert_true(reaper_sweep(r, &err) < 0);
    assert_string_equal(err.msg, "no answer");
    reaper_free(r);
}

static void test_hand(void **state)
{
    (void)state;
    struct reaper *r = reaper_new(&v);
    for (int i = 0; i < 3; i++) { /* one may wait; the next are destroyed by who brings them */
        struct machine *m = calloc(1, sizeof(*m));
        m->driver = &fake;
        snprintf(m->spec.name, sizeof(m->spec.name), "m%d", i);
        ended[0] = '\0';
        reaper_hand(r, m); /* m is gone by now, or soon */
        char name[8];
        snprintf(name, sizeof(name), "m%d", i);
        assert_string_equal(ended, i == 0 ? "" : name);
    }
    reaper_start(r);
    reaper_stop(r);
    assert_string_equal(ended, "m0");
    reaper_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_earlier_life_goes_at_once),
        cmocka_unit_test(test_grace),
        cmocka_unit_test(test_grace_is_not_inherited),
        cmocka_unit_test(test_backend_away),
        cmocka_unit_test(test_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
