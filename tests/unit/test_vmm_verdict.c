/* From a final record to a verdict, and to what the student reads. */

#include "services/vmm/verdict.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define AT INT64_C(1795504100000) /* Tue Nov 24 07:08:20 2026 UTC */
#define NOTHING                                                                                    \
    {                                                                                              \
        FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS             \
    }

static const struct verdict_context plain = {.timeout_s = 5, .memory_mb = 64};
static const struct verdict_context oom = {.timeout_s = 5, .memory_mb = 64, .oom = true};

static const struct {
    const char *record;
    const struct verdict_context *context;
    enum job_verdict verdict;
    const char *message;
    const char *lines;
    int status;
} cases[] = {
    {"outcome=exited\nstatus=0\n", &plain, VERDICT_SUCCESS, NORMAL,
     "Autodriver: Job exited with status 0\n", 0},
    {"status=2\noutcome=exited\nunknown=1\n", &plain, VERDICT_SUCCESS, NORMAL,
     "Autodriver: Job exited with status 2\n", 0},
    {"outcome=signaled\nstatus=9\n", &plain, VERDICT_SUCCESS, NORMAL,
     "Autodriver: Job exited with status 137\nAutodriver: Job was killed by signal 9\n", 0},
    {"outcome=timed_out\nstatus=0\n", &plain, VERDICT_TIMED_OUT,
     "Error: Job timed out after 5 seconds", "Autodriver: Job timed out after 5 seconds\n", 2},
    {"outcome=exited\nstatus=2\n", &oom, VERDICT_MEMORY,
     "Error: Job exceeded its memory limit of 64 MB",
     "Autodriver: Job exited with status 2\n"
     "Autodriver: Job exceeded its memory limit of 64 MB and was killed\n",
     0},
    /* One that lived through the death of a child: that a limit was hit is told all the same. */
    {"outcome=exited\nstatus=0\n", &oom, VERDICT_MEMORY,
     "Error: Job exceeded its memory limit of 64 MB",
     "Autodriver: Job exited with status 0\n"
     "Autodriver: Job exceeded its memory limit of 64 MB and a program of it was killed\n",
     0},
    {"outcome=timed_out\nstatus=0\n", &oom, VERDICT_TIMED_OUT,
     "Error: Job timed out after 5 seconds",
     "Autodriver: Job timed out after 5 seconds\n"
     "Autodriver: A program of it was killed at its memory limit of 64 MB\n",
     2},
    {"outcome=cancelled\n", &plain, VERDICT_CANCELLED, "Error: Job was cancelled",
     "Autodriver: Job was cancelled\n", 0},
    {"outcome=no_make\nreason=there is no make\n", &plain, VERDICT_FAILED, OS_ERROR,
     "Autodriver: there is no make\n", 3},
    {"outcome=exec_failed\n", &plain, VERDICT_FAILED, OS_ERROR,
     "Autodriver: Error executing make\n", 3},
};

static void test_final(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct result r = {0};
        struct feedback_steps steps = NOTHING;
        assert_int_equal(verdict_final(cases[i].record, strlen(cases[i].record), cases[i].context,
                                       &steps, &r, NULL),
                         0);
        assert_int_equal(r.kind, RESULT_COMMIT);
        assert_int_equal(r.verdict, cases[i].verdict);
        assert_string_equal(r.message, cases[i].message);
        assert_string_equal(r.lines, cases[i].lines);
        assert_int_equal(steps.run_job, cases[i].status);
    }
}

/* What says that the machine is at fault, or says nothing, commits nothing. */
static void test_no_verdict(void **state)
{
    static const char *const records[] = {"outcome=lease_lost\nreason=no frame came for 10 ms\n",
                                          "", "outcome=\n", "outcome=melted\n", "status=0\n"};
    (void)state;
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        struct result r = {0};
        struct feedback_steps steps = NOTHING;
        struct error err = ERROR_INIT;
        assert_int_equal(verdict_final(records[i], strlen(records[i]), &plain, &steps, &r, &err),
                         -EPROTO);
        assert_int_equal(err.class, ERR_TEMPORARY);
    }
}

static void test_one_line(void **state)
{
    struct result r = {0};
    char why[600];
    (void)state;
    memset(why, 'x', sizeof(why));
    why[3] = '\n';
    why[4] = '|';
    why[sizeof(why) - 1] = '\0';
    verdict_refused(why, &r);
    assert_null(strchr(r.message, '\n'));
    assert_null(strchr(r.message, '|'));
    assert_ptr_equal(strchr(r.lines, '\n'), r.lines + strlen(r.lines) - 1);
}

static const struct job job = {.name = (char *)"myjob"};

static void test_feedback(void **state)
{
    struct result r = {0};
    struct feedback_steps steps = NOTHING;
    struct buf b = BUF_INIT(4096);
    (void)state;
    verdict_final("outcome=exited\nstatus=0\nhead=3\nelided=7\n", 40, &plain, &steps, &r, NULL);
    verdict_feedback(&r, &steps, &job, "7", AT, AT + 2000, 1, "abcxyz", 6, &b);
    assert_string_equal(
        b.data, "Autograder [Tue Nov 24 07:08:20 2026]: Received job myjob:7\n"
                "Autograder [Tue Nov 24 07:08:22 2026]: Success: Autodriver returned normally\n"
                "Autograder [Tue Nov 24 07:08:22 2026]: Here is the output from the autograder:\n"
                "---\nAutodriver: Job exited with status 0\n"
                "abc\n...[excess bytes elided]...\nxyz");
    /* A head beyond what there is, is no head. */
    buf_clear(&b);
    r.head = 7;
    verdict_feedback(&r, &steps, &job, "7", AT, AT + 2000, 1, "abcxyz", 6, &b);
    assert_non_null(strstr(b.data, "\nabcxyz"));
    buf_free(&b);
}

static void test_gave_up(void **state)
{
    struct result r = {0};
    struct feedback_steps steps = NOTHING;
    struct buf b = BUF_INIT(4096);
    (void)state;
    steps.wait_vm = -1;
    verdict_gave_up("waitVM timeout after 60 secs", &r);
    assert_int_equal(r.verdict, VERDICT_INFRASTRUCTURE);
    assert_string_equal(r.message, "Internal error: waitVM timeout after 60 secs");
    verdict_feedback(&r, &steps, &job, "7", AT, AT, 3, "", 0, &b);
    assert_non_null(
        strstr(b.data, ": Internal error: Unable to complete job after 3 tries. Pleae resubmit\n"));
    assert_non_null(
        strstr(b.data, ": Job status: waitVM=-1 copyIn=None runJob=None copyOut=None\n"));
    assert_string_equal(b.data + b.len - 5, "\n---\n");
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_final),    cmocka_unit_test(test_no_verdict),
        cmocka_unit_test(test_one_line), cmocka_unit_test(test_feedback),
        cmocka_unit_test(test_gave_up),
    };
    setenv("TZ", "UTC", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
