#include "base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_set_fills_and_returns_the_code(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    errno = 7;
    assert_int_equal(err_set(&err, ERR_REFUSED, ENOENT, "no %s", "lab"), -ENOENT);
    assert_int_equal(err.code, ENOENT);
    assert_int_equal(err.class, ERR_REFUSED);
    assert_string_equal(err.msg, "no lab");
    assert_int_equal(errno, 7);
    assert_int_equal(err_set(NULL, ERR_BUG, EIO, "x"), -EIO);
}

static void test_set_errno_keeps_the_reason_of_a_long_message(void **state)
{
    struct error err = ERROR_INIT;
    char text[1000];

    (void)state;
    err_set_errno(&err, ERR_TEMPORARY, ENOENT, "open %s", "a");
    assert_string_equal(err.msg, "open a: No such file or directory");
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(err_set_errno(&err, ERR_TEMPORARY, ENOENT, "open %s", text), -ENOENT);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
    assert_non_null(strstr(err.msg, ": No such file or directory"));
    assert_int_equal(err_set_errno(NULL, ERR_BUG, EIO, "x"), -EIO);
}

static void test_wrap_reads_outer_then_inner(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    err_set(&err, ERR_TEMPORARY, EAGAIN, "inner");
    assert_int_equal(err_wrap(&err, "outer %d", 1), -EAGAIN);
    assert_string_equal(err.msg, "outer 1: inner");
    assert_int_equal(err.class, ERR_TEMPORARY);
    assert_int_equal(err_wrap(&err, "again (%s)", err.msg), -EAGAIN);
    assert_string_equal(err.msg, "again (outer 1: inner): outer 1: inner");
    assert_int_equal(err_wrap(NULL, "x"), -EIO);
}

static void test_wrap_of_nothing_is_a_bug_not_a_success(void **state)
{
    struct error err = ERROR_INIT;

    (void)state;
    assert_int_equal(err_wrap(&err, "outer"), -EIO);
    assert_int_equal(err.class, ERR_BUG);
}

static void test_message_is_one_line_and_never_half_a_character(void **state)
{
    struct error err = ERROR_INIT;
    char text[sizeof(err.msg) * 2];

    (void)state;
    err_set(&err, ERR_REFUSED, EINVAL, "a\nb\tc");
    assert_string_equal(err.msg, "a b c");
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof(text); i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4);
        err_set(&err, ERR_REFUSED, EINVAL, "%s", text);
        assert_int_equal((strlen(err.msg) - shift) % 3, 0);
        err_wrap(&err, "ab");
        assert_int_equal((strlen(err.msg) - shift - 4) % 3, 0);
    }
}

static void test_class_names(void **state)
{
    (void)state;
    assert_string_equal(err_class_name(ERR_NONE), "none");
    assert_string_equal(err_class_name(ERR_TEMPORARY), "temporary");
    assert_string_equal(err_class_name(ERR_PERMANENT), "permanent");
    assert_string_equal(err_class_name(ERR_REFUSED), "refused");
    assert_string_equal(err_class_name(ERR_BUG), "bug");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_fills_and_returns_the_code),
        cmocka_unit_test(test_set_errno_keeps_the_reason_of_a_long_message),
        cmocka_unit_test(test_wrap_reads_outer_then_inner),
        cmocka_unit_test(test_wrap_of_nothing_is_a_bug_not_a_success),
        cmocka_unit_test(test_message_is_one_line_and_never_half_a_character),
        cmocka_unit_test(test_class_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
