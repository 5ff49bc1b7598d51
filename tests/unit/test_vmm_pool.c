/* Warm machines: which are made, of what shape, and who waits for whom. Backend and wishes are the
 * test's. */

#include "wire/rlink.h"

static int fake_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, redisReply **ret, struct error *err);
#define rlink_eval     fake_eval
#define rlink_is_up(l) true
#include "services/vmm/pool.c"

#include "services/vmm/sync.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

const struct script script_pool = {.name = "pool"};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static const char *wished[8]; /* image, text, ... */
static atomic_uint made, being_made, most_at_once, gone, name_ct;
static atomic_bool slow_may_end;

static int fake_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, redisReply **ret, struct error *err)
{
    (void)l;
    (void)s;
    (void)argc;
    (void)argv;
    (void)argvlen;
    (void)ret;
    return err_set(err, ERR_TEMPORARY, EIO, "no Redis here");
}

const char *reply_str(const redisReply *r, size_t i)
{
    return r->element[i]->str;
}

const char *reply_word(const redisReply *r)
{
    (void)r;
    return "";
}

int vmm_hgetall(const struct vmm *v, const char *suffix, redisReply **ret, struct error *err)
{
    (void)v;
    (void)suffix;
    (void)err;
    redisReply *r = calloc(1, sizeof(*r));
    r->type = REDIS_REPLY_ARRAY;
    pthread_mutex_lock(&guard);
    while (r->elements < ARRAY_SIZE(wished) && wished[r->elements])
        r->elements++;
    r->element = calloc(r->elements + 1, sizeof(redisReply *));
    for (size_t i = 0; i < r->elements; i++) {
        r->element[i] = calloc(1, sizeof(redisReply));
        r->element[i]->type = REDIS_REPLY_STRING;
        r->element[i]->str = strdup(wished[i]);
        r->element[i]->len = strlen(wished[i]);
    }
    pthread_mutex_unlock(&guard);
    *ret = r;
    return 0;
}

struct machine_shape vmm_default_shape(const struct vmm *v, char *image, char *d)
{
    (void)v;
    return (struct machine_shape){.image = image, .digest = d, .memory_mb = 1024};
}

bool agent_epoch(struct agent *a, char out[24])
{
    (void)a;
    out[0] = '\0';
    return true;
}

bool health_ok(struct health *h)
{
    (void)h;
    return true;
}

void health_made(struct health *h, const char *who, const char *image)
{
    (void)h;
    (void)who;
    (void)image;
}

bool health_failed(struct health *h, const char *who, const char *image, const struct error *why)
{
    (void)h;
    (void)who;
    (void)image;
    (void)why;
    return false;
}

char *watch_image(struct watch *w, const char *name)
{
    (void)w;
    return xasprintf("digest of %s", name);
}

uint64_t fleet_version(struct fleet *f)
{
    (void)f;
    return 0;
}

bool fleet_text(struct fleet *f, const char *image, struct buf *out)
{
    (void)f;
    (void)image;
    buf_appends(out, ";");
    return true;
}

void fleet_images(struct fleet *f, void (*each)(void *arg, const char *image), void *arg)
{
    (void)f;
    (void)each;
    (void)arg;
}

void fleet_role(struct fleet *f, const char *name, enum fleet_role role)
{
    (void)f;
    (void)name;
    (void)role;
}

void fleet_end(struct fleet *f, const char *name)
{
    (void)f;
    (void)name;
}

int fleet_begin(struct fleet *f, const struct machine_shape *shape, struct machine_spec *ret,
                struct error *err)
{
    (void)f;
    (void)err;
    ret->shape = *shape;
    ret->id = 1000 + atomic_fetch_add(&name_ct, 1);
    snprintf(ret->name, sizeof(ret->name), "m-%u", ret->id);
    return 0;
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
    atomic_fetch_add(&gone, 1);
    machine_free(m);
}

static int initialize(struct backend *b, const struct machine_spec *spec, int64_t deadline,
                      int cancel_fd, struct machine **ret, struct error *err)
{
    (void)deadline;
    unsigned now = atomic_fetch_add(&being_made, 1) + 1;
    if (now > atomic_load(&most_at_once))
        atomic_store(&most_at_once, now);
    if (strcmp(spec->shape.image, "slow") == 0)
        while (!atomic_load(&slow_may_end) && !event_wait(cancel_fd, clock_mono_ms() + 5))
            continue;
    atomic_fetch_sub(&being_made, 1);
    if (event_wait(cancel_fd, 0))
        return err_set(err, ERR_TEMPORARY, ECANCELED, "stopped");
    *ret = machine_new(NULL, b, spec);
    (*ret)->made_ms = clock_mono_ms();
    atomic_fetch_add(&made, 1);
    return 0;
}

static const struct driver fake = {.initialize = initialize};
static const struct driver fake_net = {.initialize = initialize};

bool vmm_has_network(const struct vmm *vmm)
{
    return vmm->driver == &fake_net;
}

static const struct config cfg = {
    .warm_max = 6, .init_timeout_ms = 60000, .wait_timeout_ms = 60000};
static struct vmm v = {.cfg = &cfg, .driver = &fake, .name = "v"};

static void wish(const char *a, const char *n, const char *b, const char *m)
{
    const char *now[] = {a, n, b, m};
    pthread_mutex_lock(&guard);
    memcpy(wished, now, sizeof(now));
    pthread_mutex_unlock(&guard);
}

static struct pool *begin(void)
{
    atomic_store(&made, 0);
    atomic_store(&gone, 0);
    atomic_store(&most_at_once, 0);
    atomic_store(&slow_may_end, false);
    struct pool *p = pool_new(&v);
    pool_start(p);
    pool_poke(p, true);
    return p;
}

static void until(bool (*is_so)(void))
{
    for (int i = 0; i < 2000 && !is_so(); i++)
        event_wait(-1, clock_mono_ms() + 5);
    assert_true(is_so());
}

static bool made_three(void)
{
    return atomic_load(&made) >= 3;
}

static bool made_four(void)
{
    return atomic_load(&made) >= 4;
}

static void end(struct pool *p)
{
    pool_stop(p);
    pool_free(p);
}

static void test_slow_image_holds_up_no_other(void **state)
{
    (void)state;
    wish("slow", "2", "quick", "3");
    struct pool *p = begin();
    until(made_three); /* all of the quick ones */
    assert_int_equal(atomic_load(&being_made), 1);
    assert_true(atomic_load(&most_at_once) <= 2); /* one of an image at a time */
    atomic_store(&slow_may_end, true);
    until(made_four);
    end(p);
    assert_int_equal(atomic_load(&gone), atomic_load(&made));
}

/* One that is being made when the vmm stops is ended, not waited for. */
static void test_stop_while_making(void **state)
{
    (void)state;
    wish("slow", "1", NULL, NULL);
    struct pool *p = begin();
    for (int i = 0; i < 2000 && atomic_load(&being_made) == 0; i++)
        event_wait(-1, clock_mono_ms() + 5);
    end(p);
    assert_int_equal(atomic_load(&made), 0);
}

static struct machine *take(struct pool *p, uint32_t cores, uint32_t memory)
{
    struct machine_spec s = {.shape = {.image = (char *)"a",
                                       .digest = (char *)"digest of a",
                                       .cores_milli = cores,
                                       .memory_mb = memory}};
    return pool_take(p, &s);
}

static bool one_gone(void)
{
    return atomic_load(&gone) >= 1;
}

static void test_shape(void **state)
{
    (void)state;
    wish("a", "2 2000 512", "b", "1");
    struct pool *p = begin();
    until(made_three);
    /* what a job of that image gets that gives no limits, warm or not */
    struct machine_shape s = vmm_default_shape(&v, (char *)"a", NULL);
    pool_shape(p, &s);
    assert_int_equal(s.cores_milli, 2000);
    assert_int_equal(s.memory_mb, 512);
    struct machine_shape other = vmm_default_shape(&v, (char *)"b", NULL);
    pool_shape(p, &other);
    assert_int_equal(other.cores_milli, 0);
    assert_int_equal(other.memory_mb, 1024);
    assert_null(take(p, 0, 1024));
    assert_null(take(p, 2000, 1024));
    struct machine *m = take(p, 2000, 512);
    assert_non_null(m);
    assert_int_equal(m->spec.shape.memory_mb, 512);
    machine_free(m);
    until(made_four); /* its successor; then the wish is another */
    wish("a", "1 2000 256", "b", "1");
    pool_poke(p, true);
    until(one_gone);
    for (m = NULL; !(m = take(p, 2000, 256));)
        event_wait(-1, clock_mono_ms() + 5);
    machine_free(m);
    /* no machine here, and the shape all the same */
    wish("a", "0 2000 300", "b", "1");
    pool_poke(p, true);
    for (s.memory_mb = 0; s.memory_mb != 300;)
        pool_shape(p, &s);
    wish("b", "1", NULL, NULL);
    pool_poke(p, true);
    for (; s.memory_mb == 300; pool_shape(p, &s))
        s.memory_mb = 1024;
    end(p);
}

/* Who needs room gets a warm machine's, and it is not taken from the pool's count: its successor
 * may wait for room, too. */
static void test_yield(void **state)
{
    (void)state;
    wish("a", "1", "b", "2");
    struct pool *p = begin();
    until(made_three);
    for (int i = 0; i < 2000 && !one_gone(); i++) { /* the last may not have been put there yet */
        pool_yield(p);
        event_wait(-1, clock_mono_ms() + 1);
    }
    assert_true(one_gone());
    until(made_four);
    end(p);
}

static struct machine *take_kind(struct pool *p, bool network)
{
    struct machine_spec s = {.shape = {.image = (char *)"a",
                                       .digest = (char *)"digest of a",
                                       .memory_mb = 1024,
                                       .network = network}};
    return pool_take(p, &s);
}

/* How many of a kind there are, once there are `all`. */
static unsigned count_kind(struct pool *p, bool network, unsigned all)
{
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&p->lock);
        unsigned n = count_locked(p, "a"), of = count_kind_locked(p, "a", network);
        bool still = p->making_ct == 0 && !lacks(p, find_wish(p, "a"), true) &&
                     !lacks(p, find_wish(p, "a"), false);
        pthread_mutex_unlock(&p->lock);
        if (n == all && still)
            return of;
        event_wait(-1, clock_mono_ms() + 5);
    }
    fail_msg("the pool does not come to rest");
    return 0;
}

static bool made_two(void)
{
    return atomic_load(&made) >= 2;
}

/* Jobs without network have their machines too, as many as they are. */
static void test_both_networks(void **state)
{
    (void)state;
    wish("a", "4", NULL, NULL);
    struct pool *p = begin();
    until(made_four);
    assert_int_equal(count_kind(p, false, 4), 4); /* the default of this test's vmm */
    end(p);

    v.driver = &fake_net;
    p = begin();
    until(made_four);
    assert_int_equal(count_kind(p, true, 4), 4);
    assert_null(take_kind(p, false));             /* the first one is served cold */
    assert_int_equal(count_kind(p, false, 4), 4); /* nobody has asked for the other */
    machine_free(take_kind(p, false));
    machine_free(take_kind(p, false));
    assert_null(take_kind(p, true));
    assert_int_equal(count_kind(p, true, 4), 1); /* of four jobs, one */
    struct machine *m = take_kind(p, true);
    assert_non_null(m);
    machine_free(m);
    /* a job of other limits is none that a warm machine could serve */
    for (int i = 0; i < 50; i++)
        assert_null(take(p, 9, 9));
    assert_int_equal(count_kind(p, true, 4) + count_kind(p, false, 4), 4);
    /* one machine is of the kind that is asked for more */
    wish("a", "1", NULL, NULL);
    pool_poke(p, true);
    for (int i = 0; i < 20; i++) {
        m = take_kind(p, false);
        if (m)
            machine_free(m);
    }
    assert_int_equal(count_kind(p, false, 1), 1);
    end(p);
    v.driver = &fake;
    until(made_two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_image_holds_up_no_other),
        cmocka_unit_test(test_stop_while_making),
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_yield),
        cmocka_unit_test(test_both_networks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
