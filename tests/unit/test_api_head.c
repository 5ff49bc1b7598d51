#include "services/api/head.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct head scan(const char *text)
{
    struct head h;

    assert_int_equal(head_scan(text, strlen(text), &h), 1);
    return h;
}

static void test_parts(void **state)
{
    static const char text[] = "POST /upload/k/l/ HTTP/1.1\r\nHost: x\r\nCONTENT-LENGTH: \t12 \r\n"
                               "Expect: 100-continue\r\nAuthorization: Bearer s\r\n\r\nbody";
    struct head h = scan(text);

    (void)state;
    assert_int_equal(h.len, sizeof(text) - 1 - strlen("body"));
    assert_memory_equal(h.method.at, "POST", h.method.len);
    assert_int_equal(h.method.len, 4);
    assert_int_equal(h.path.len, strlen("/upload/k/l/"));
    assert_int_equal(h.content_length, 12);
    assert_true(h.expect);
    assert_false(h.chunked);
    assert_false(h.length_conflict);
    assert_int_equal(h.authorization.len, strlen("Bearer s"));
}

static void test_every_prefix_is_incomplete(void **state)
{
    static const char text[] = "PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n";
    struct head h;

    (void)state;
    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        char *copy = malloc(n + 1); /* so that a sanitizer sees a byte too far */

        memcpy(copy, text, n);
        assert_int_equal(head_scan(copy, n, &h), 0);
        free(copy);
    }
}

static void test_lengths(void **state)
{
    (void)state;
    assert_true(scan("P / H\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n").length_conflict);
    assert_false(scan("P / H\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n").length_conflict);
    assert_true(scan("P / H\r\nContent-Length: -1\r\n\r\n").content_length == UINT64_MAX);
    assert_true(scan("P / H\r\nContent-Length: 1, 1\r\n\r\n").content_length == UINT64_MAX);
    assert_true(scan("P / H\r\nContent-Length:\r\n\r\n").content_length == UINT64_MAX);
    assert_true(scan("P / H\r\nContent-Length: 99999999999999999999999\r\n\r\n").content_length ==
                UINT64_MAX);
    assert_int_equal(scan("P / H\r\nHost: x\r\n\r\n").content_length_ct, 0);
    assert_true(scan("P / H\nTransfer-Encoding: chunked\n\n").chunked);
}

static void test_not_a_head(void **state)
{
    char *big = malloc(HEAD_MAX + 2);
    struct head h;

    (void)state;
    assert_int_equal(head_scan("nonsense\r\n\r\n", 12, &h), -1);
    assert_int_equal(head_scan("GET \r\n\r\n", 8, &h), -1);
    assert_int_equal(head_scan(" / x\r\n\r\n", 8, &h), -1);
    memset(big, 'a', HEAD_MAX + 2);
    assert_int_equal(head_scan(big, HEAD_MAX, &h), 0);
    assert_int_equal(head_scan(big, HEAD_MAX + 1, &h), -1);
    memset(big, '\n', HEAD_MAX + 2);
    assert_int_equal(head_scan(big, HEAD_MAX + 1, &h), -1);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_every_prefix_is_incomplete),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_not_a_head),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
