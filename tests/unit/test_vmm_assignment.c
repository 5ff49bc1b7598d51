/* The message that hands a job over, from a script of the dispatcher. */

#include "services/vmm/assignment.c"

#include <msgpack.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static msgpack_sbuffer make(bool as_text, const char *token, unsigned extra)
{
    msgpack_sbuffer b;
    msgpack_packer p;
    msgpack_sbuffer_init(&b);
    msgpack_packer_init(&p, &b, msgpack_sbuffer_write);
    msgpack_pack_array(&p, 5 + extra);
    if (as_text) {
        msgpack_pack_str(&p, 2);
        msgpack_pack_str_body(&p, "42", 2);
    } else {
        msgpack_pack_uint32(&p, 42);
    }
    msgpack_pack_str(&p, strlen(token));
    msgpack_pack_str_body(&p, token, strlen(token));
    msgpack_pack_uint32(&p, 3);
    msgpack_pack_uint32(&p, 1);
    msgpack_pack_str(&p, 4);
    msgpack_pack_str_body(&p, "b\0dy", 4);
    for (unsigned i = 0; i < extra; i++) {
        if (i > 0) {
            msgpack_pack_nil(&p);
            continue;
        }
        msgpack_pack_str(&p, 2);
        msgpack_pack_str_body(&p, "12", 2);
    }
    return b;
}

static void test_good(void **state)
{
    (void)state;
    for (unsigned form = 0; form < 4; form++) {
        struct assignment a;
        msgpack_sbuffer b = make(form & 1, "7.3", form & 2);
        assert_int_equal(assignment_decode(b.data, b.size, &a, NULL), 0);
        assert_string_equal(a.id, "42");
        assert_string_equal(a.token, "7.3");
        assert_int_equal(a.tries, 3);
        assert_int_equal(a.charged, 1);
        assert_string_equal(a.epoch, form & 2 ? "12" : "");
        assert_int_equal(a.body_len, 4);
        assert_memory_equal(a.body, "b\0dy", 4);
        msgpack_sbuffer_destroy(&b);
    }
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    msgpack_sbuffer b = make(false, "7.3", 0);
    for (size_t len = 0; len < b.size; len++) {
        struct assignment a;
        struct error err = ERROR_INIT;
        char *copy = malloc(len + 1); /* exactly so long: a sanitizer sees one byte too many */
        memcpy(copy, b.data, len);
        char *exact = realloc(copy, len ? len : 1);
        assert_int_equal(assignment_decode(exact, len, &a, &err), -EPROTO);
        assert_int_equal(err.class, ERR_PERMANENT);
        free(exact);
    }
    msgpack_sbuffer_destroy(&b);
}

static void test_bad_token(void **state)
{
    static const char *const bad[] = {"", "7", "7.", ".3", "7.3 ", "7.3\n"};
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct assignment a;
        msgpack_sbuffer b = make(false, bad[i], 0);
        assert_int_equal(assignment_decode(b.data, b.size, &a, NULL), -EPROTO);
        msgpack_sbuffer_destroy(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_cut_anywhere),
        cmocka_unit_test(test_bad_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
