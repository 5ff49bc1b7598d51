#include "wire/frame.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void head_and_peek_agree(void **state)
{
    static uint8_t bytes[FRAME_HEAD + FRAME_MAX];
    enum frame_type type = FRAME_GO;
    uint32_t len = 0;

    (void)state;
    frame_head(bytes, FRAME_OUTPUT, 300);
    assert_memory_equal(bytes, "\0\0\1\54O", FRAME_HEAD);
    for (size_t have = 0; have < FRAME_HEAD + 300; have++)
        assert_int_equal(frame_peek(bytes, have, &type, &len), 0);
    assert_int_equal(type, FRAME_GO); /* untouched so far */
    assert_int_equal(frame_peek(bytes, FRAME_HEAD + 300, &type, &len), 1);
    assert_int_equal(type, FRAME_OUTPUT);
    assert_int_equal(len, 300);
    frame_head(bytes, FRAME_TAR, FRAME_MAX);
    assert_int_equal(frame_peek(bytes, sizeof(bytes), &type, &len), 1);
    assert_int_equal(len, FRAME_MAX);
    frame_head(bytes, FRAME_CANCEL, 0);
    assert_int_equal(frame_peek(bytes, FRAME_HEAD, &type, &len), 1);
    assert_int_equal(len, 0);
}

static void lies_are_refused_at_the_head(void **state)
{
    uint8_t head[FRAME_HEAD];
    enum frame_type type;
    uint32_t len;

    (void)state;
    frame_head(head, FRAME_TAR, FRAME_MAX + 1);
    assert_int_equal(frame_peek(head, sizeof(head), &type, &len), -EPROTO);
    frame_head(head, FRAME_TAR, UINT32_MAX);
    assert_int_equal(frame_peek(head, sizeof(head), &type, &len), -EPROTO);
    for (int t = 0; t < 256; t++) {
        frame_head(head, (enum frame_type)t, 0);
        assert_int_equal(frame_peek(head, sizeof(head), &type, &len),
                         t && strchr("HTEGBCRLSOXQ", t) ? 1 : -EPROTO);
    }
}

static void fields(void **state)
{
    static const char text[] =
        "a=1\nab=two=2\nempty=\n=x\nnoeq\nbig=18446744073709551615\n"
        "over=18446744073709551616\nneg=-1\nsp= 1\nhuge=99999999999999999999\n"
        "a=again\nlast=7";
    size_t len = sizeof(text) - 1;
    const char *value = NULL;
    uint64_t n = 5;

    (void)state;
    assert_int_equal(frame_field(text, len, "a", &value), 1);
    assert_memory_equal(value, "1", 1);
    assert_int_equal(frame_field(text, len, "ab", &value), 5);
    assert_memory_equal(value, "two=2", 5);
    assert_int_equal(frame_field(text, len, "empty", &value), 0);
    assert_int_equal(frame_field(text, len, "noeq", &value), -ENOENT);
    assert_int_equal(frame_field(text, len, "b", &value), -ENOENT);
    assert_int_equal(frame_field(NULL, 0, "b", &value), -ENOENT);
    assert_int_equal(frame_field_u64(text, len, "absent", &n), -ENOENT);
    assert_int_equal(frame_field_u64(text, len, "empty", &n), -EINVAL);
    assert_int_equal(frame_field_u64(text, len, "over", &n), -EINVAL);
    assert_int_equal(frame_field_u64(text, len, "huge", &n), -EINVAL);
    assert_int_equal(frame_field_u64(text, len, "neg", &n), -EINVAL);
    assert_int_equal(frame_field_u64(text, len, "sp", &n), -EINVAL);
    assert_int_equal(n, 5);
    assert_int_equal(frame_field_u64(text, len, "big", &n), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(frame_field_u64(text, len, "last", &n), 0); /* no newline at the end */
    assert_int_equal(n, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_and_peek_agree),
        cmocka_unit_test(lies_are_refused_at_the_head),
        cmocka_unit_test(fields),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
