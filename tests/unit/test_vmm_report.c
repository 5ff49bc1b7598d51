/* The last word of an attempt, with Redis away for a while: nothing of it is lost. Redis is the
 * test's. */

#include "wire/rlink.h"

static int fake_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, redisReply **ret, struct error *err);
static int fake_send(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, void (*done)(void *arg, const redisReply *reply),
                     void *arg);
#define rlink_eval     fake_eval
#define rlink_send     fake_send
#define rlink_is_up(l) true
#include "services/vmm/report.c"

#include "services/vmm/sync.c"
#include "services/vmm/trace.c"
#include "services/vmm/vmm.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

const struct script script_step = {.name = "step"}, script_commit = {.name = "commit"},
                    script_giveback = {.name = "giveback"};

static unsigned refusals; /* calls that fail first */
static char heard[1024];  /* "script:code,code script:" ... */
static int64_t due;
static void (*pending)(void *arg, const redisReply *reply); /* a call whose answer is not here */
static void *pending_arg;

static void hear(const struct script *s, int argc, const char *const *argv)
{
    size_t at = strlen(heard);
    at += (size_t)snprintf(heard + at, sizeof(heard) - at, "%s:", s->name);
    if (s == &script_step)
        for (int i = 3; i < argc; i += 3)
            at += (size_t)snprintf(heard + at, sizeof(heard) - at, "%s,", argv[i]);
    snprintf(heard + at, sizeof(heard) - at, " ");
    if (s == &script_giveback)
        due = strtoll(argv[3], NULL, 10) - strtoll(argv[2], NULL, 10);
}

static int fake_eval(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, redisReply **ret, struct error *err)
{
    (void)l;
    (void)argvlen;
    if (refusals > 0) {
        refusals--;
        if (pending) /* the connection goes, and with it all that was under way, in order */
            pending(pending_arg, NULL);
        pending = NULL;
        return err_set(err, ERR_TEMPORARY, ECONNRESET, "gone");
    }
    hear(s, argc, argv);
    redisReply *r = calloc(1, sizeof(*r));
    r->type = REDIS_REPLY_ARRAY;
    r->elements = 1;
    r->element = calloc(1, sizeof(*r->element));
    r->element[0] = calloc(1, sizeof(redisReply));
    r->element[0]->type = REDIS_REPLY_STRING;
    r->element[0]->str = strdup("ok");
    r->element[0]->len = 2;
    *ret = r;
    return 0;
}

static int fake_send(struct rlink *l, const struct script *s, int argc, const char *const *argv,
                     const size_t *argvlen, void (*done)(void *arg, const redisReply *reply),
                     void *arg)
{
    (void)l;
    (void)s;
    (void)argc;
    (void)argv;
    (void)argvlen;
    pending = done;
    pending_arg = arg;
    return 0;
}

bool agent_wait_up(struct agent *a, int64_t deadline)
{
    (void)a;
    (void)deadline;
    return true;
}

size_t verdict_feedback(const struct result *r, const struct feedback_steps *steps,
                        const struct job *job, const char *id, int64_t received_ms, int64_t now_ms,
                        unsigned tries, const char *output, size_t output_len, struct buf *out)
{
    (void)r;
    (void)steps;
    (void)job;
    (void)id;
    (void)received_ms;
    (void)now_ms;
    (void)tries;
    buf_append(out, output, output_len);
    return out->len - output_len;
}

static const struct config cfg = {.retry_base_ms = 1000, .retry_cap_ms = 60000};
static struct vmm v = {.cfg = &cfg};
static atomic_uint ref_ct;

struct attempt *attempt_ref(struct attempt *a)
{
    atomic_fetch_add(&ref_ct, 1);
    return a;
}

void attempt_unref(struct attempt *a)
{
    (void)a;
    atomic_fetch_sub(&ref_ct, 1);
}

void attempt_stop(struct attempt *a, enum attempt_kill why)
{
    atomic_store(&a->kill, (int)why);
}

enum attempt_kill attempt_killed(const struct attempt *a)
{
    return (enum attempt_kill)atomic_load(&a->kill);
}

static void begin(struct attempt *a)
{
    *a = (struct attempt){.v = &v, .id = "7", .token = "1.1", .tries = 1, .trace = trace_new()};
    heard[0] = '\0';
    refusals = 0;
    pending = NULL;
}

static void test_lines_wait_for_redis(void **state)
{
    struct attempt a;
    struct result x = {.kind = RESULT_GIVEBACK, .why = "no machine"};
    (void)state;
    begin(&a);
    trace_add(&a, "executed", "%d", 0);
    refusals = 2;
    report_giveback(&a, &x);
    assert_string_equal(heard, "step:executed, giveback: ");
    trace_free(a.trace);
}

/* They were sent, and the connection went before they arrived: with the commit behind them. */
static void test_lines_under_way(void **state)
{
    struct attempt a;
    struct result x = {.kind = RESULT_GIVEBACK, .why = "no machine"};
    (void)state;
    begin(&a);
    trace_add(&a, "executed", "%d", 0);
    trace_send(&a, "c");
    assert_non_null(pending);
    refusals = 1;
    report_giveback(&a, &x);
    assert_string_equal(heard, "step:executed, giveback: ");
    assert_int_equal(ref_ct, 0);
    trace_free(a.trace);
}

/* Tries back off, those that were not charged too. */
static void test_uncharged_tries_back_off(void **state)
{
    struct attempt a;
    struct result x = {.kind = RESULT_GIVEBACK, .why = "no machine"};
    int64_t longest = 0;
    (void)state;
    for (int i = 0; i < 20; i++) {
        begin(&a);
        a.tries = 6;
        report_giveback(&a, &x);
        assert_true(due >= 500 && due <= 32000);
        longest = due > longest ? due : longest;
        trace_free(a.trace);
    }
    assert_true(longest > 1000);
    begin(&a);
    attempt_stop(&a, KILL_HANDBACK); /* the job has nothing to wait for */
    report_giveback(&a, &x);
    assert_true(due <= 0);
    trace_free(a.trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_wait_for_redis),
        cmocka_unit_test(test_lines_under_way),
        cmocka_unit_test(test_uncharged_tries_back_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
