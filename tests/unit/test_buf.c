#include "base/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_data_is_a_string_after_the_first_append(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(10);

    (void)state;
    assert_null(b.data);
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_string_equal(b.data, "");
    assert_int_equal(buf_appends(&b, "abc"), 0);
    assert_int_equal(buf_append(&b, "d\0e", 3), 0);
    assert_int_equal(b.len, 6);
    assert_memory_equal(b.data, "abcd\0e", 7);
}

static void test_bound_changes_nothing(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(8);

    (void)state;
    assert_int_equal(buf_append(&b, "12345", 5), 0);
    assert_int_equal(buf_append(&b, "6789", 4), -ENOSPC);
    assert_int_equal(buf_printf(&b, "%d", 6789), -ENOSPC);
    assert_int_equal(buf_append(&b, "x", SIZE_MAX), -ENOSPC);
    assert_null(buf_reserve(&b, 4));
    assert_string_equal(b.data, "12345");
    assert_int_equal(buf_printf(&b, "%d", 678), 0);
    assert_string_equal(b.data, "12345678");
    assert_int_equal(b.len, 8);
    assert_int_equal(buf_append(&b, "", 0), 0);
}

static void test_max_of_nothing(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 0);
    assert_int_equal(buf_append(&b, "x", 1), -ENOSPC);
    assert_int_equal(buf_append(&b, "", 0), 0);
    assert_string_equal(b.data, "");
    buf_free(&b);
    buf_free(&b);
}

static void test_no_bound(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(SIZE_MAX);

    (void)state;
    assert_int_equal(buf_appends(&b, "a"), 0);
    assert_null(buf_reserve(&b, SIZE_MAX - 1));
    for (int i = 0; i < 10000; i++)
        assert_int_equal(buf_printf(&b, "%04d", i), 0);
    assert_int_equal(b.len, 40001);
    assert_memory_equal(b.data + 40001 - 8, "99989999", 9);
}

static void test_reserve_then_add(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(1000);

    (void)state;
    char *to = buf_reserve(&b, 600);
    assert_non_null(to);
    memset(to, 'z', 600);
    b.len += 600;
    assert_int_equal(buf_append(&b, "!", 1), 0);
    assert_string_equal(b.data + 599, "z!");
    assert_null(buf_reserve(&b, 400));
    assert_non_null(buf_reserve(&b, 399));
}

static void test_consume(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(100);

    (void)state;
    buf_consume(&b, 5);
    buf_appends(&b, "hello world");
    buf_consume(&b, 6);
    assert_string_equal(b.data, "world");
    buf_consume(&b, 0);
    assert_string_equal(b.data, "world");
    buf_consume(&b, 99);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    buf_appends(&b, "x");
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
}

static void test_detach_is_never_null(void **state)
{
    cleanup_buf struct buf b = BUF_INIT(100);

    (void)state;
    char *s = buf_detach(&b);
    assert_string_equal(s, "");
    free(s);
    buf_appends(&b, "mine");
    s = buf_detach(&b);
    assert_string_equal(s, "mine");
    free(s);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.max, 100);
    assert_int_equal(buf_appends(&b, "again"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_is_a_string_after_the_first_append),
        cmocka_unit_test(test_bound_changes_nothing),
        cmocka_unit_test(test_max_of_nothing),
        cmocka_unit_test(test_no_bound),
        cmocka_unit_test(test_reserve_then_add),
        cmocka_unit_test(test_consume),
        cmocka_unit_test(test_detach_is_never_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
