/* The text that a student sees, to the byte. */

#include "wire/feedback.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define AT INT64_C(1795504100000) /* Tue Nov 24 07:08:20 2026 UTC */

static int set_utc(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    return 0;
}

static void test_render(void **state)
{
    struct buf b = BUF_INIT(4096);

    (void)state;
    assert_int_equal(feedback_render(&b, "myjob", "7", AT, AT + 2000,
                                     "Success: Autodriver returned normally", true),
                     0);
    assert_string_equal(
        b.data, "Autograder [Tue Nov 24 07:08:20 2026]: Received job myjob:7\n"
                "Autograder [Tue Nov 24 07:08:22 2026]: Success: Autodriver returned normally\n"
                "Autograder [Tue Nov 24 07:08:22 2026]: Here is the output from the autograder:\n"
                "---\n");
    buf_free(&b);
}

static void test_message_is_one_line(void **state)
{
    struct buf b = BUF_INIT(4096);

    (void)state;
    assert_int_equal(feedback_render(&b, "j", "1", AT, AT, "a\nb\tc\x7f", false), 0);
    assert_string_equal(b.data, "Autograder [Tue Nov 24 07:08:20 2026]: Received job j:1\n"
                                "Autograder [Tue Nov 24 07:08:20 2026]: a b c \n");
    buf_free(&b);
}

static void test_gave_up(void **state)
{
    struct buf b = BUF_INIT(4096);
    struct feedback_steps steps = {-1, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS, FEEDBACK_NO_STATUS};

    (void)state;
    assert_int_equal(feedback_gave_up(&b, AT, 2, &steps, "no machine"), 0);
    assert_non_null(strstr(b.data, "]: Internal error: Unable to complete job after 2 tries. Pleae "
                                   "resubmit\n"));
    assert_non_null(
        strstr(b.data, "]: Job status: waitVM=-1 copyIn=None runJob=None copyOut=None\n"));
    assert_non_null(strstr(b.data, "]: Internal error: no machine\n"));
    buf_free(&b);
}

static void test_bound_leaves_it_as_it_was(void **state)
{
    struct buf b = BUF_INIT(120);

    (void)state;
    buf_appends(&b, "before");
    assert_int_equal(feedback_render(&b, "myjob", "7", AT, AT, "message", true), -ENOSPC);
    assert_string_equal(b.data, "before");
    assert_int_equal(b.len, 6);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_message_is_one_line),
        cmocka_unit_test(test_gave_up),
        cmocka_unit_test(test_bound_leaves_it_as_it_was),
    };

    return cmocka_run_group_tests_name("feedback", tests, set_utc, NULL);
}
