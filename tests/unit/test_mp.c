/* The cursor against msgpack-c's packer, and against bytes that no packer writes. */

#include "wire/mp.h"

#include <errno.h>
#include <msgpack.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define BYTES(m, ...)                                                                              \
    static const uint8_t m##_bytes[] = {__VA_ARGS__};                                              \
    struct mp m;                                                                                   \
    mp_init(&m, m##_bytes, sizeof(m##_bytes))

static void numbers(void **state)
{
    static const int64_t values[] = {
        0,   1,   127,  128,  255,    256,    65535,     65536,           UINT32_MAX, 1LL << 32, -1,
        -32, -33, -128, -129, -32768, -32769, INT32_MIN, INT32_MIN - 1LL, INT64_MAX,  INT64_MIN};
    msgpack_sbuffer sb;
    msgpack_packer pk;
    struct mp m;

    (void)state;
    msgpack_sbuffer_init(&sb);
    msgpack_packer_init(&pk, &sb, msgpack_sbuffer_write);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        msgpack_sbuffer_clear(&sb);
        msgpack_pack_int64(&pk, values[i]);
        mp_init(&m, sb.data, sb.size);
        assert_int_equal(mp_peek(&m), values[i] < 0 ? MP_INT : MP_UINT);
        assert_true(mp_int(&m) == values[i]);
        assert_int_equal(mp_end(&m), 0);
        mp_init(&m, sb.data, sb.size);
        assert_true(mp_uint(&m) == (values[i] < 0 ? 0 : (uint64_t)values[i]));
        assert_int_equal(mp_end(&m), values[i] < 0 ? -EPROTO : 0);
        for (size_t cut = 0; cut < sb.size; cut++) {
            mp_init(&m, sb.data, cut);
            assert_int_equal(mp_int(&m), 0);
            assert_true(m.failed);
        }
    }
    msgpack_sbuffer_clear(&sb);
    msgpack_pack_uint64(&pk, UINT64_MAX);
    mp_init(&m, sb.data, sb.size);
    assert_true(mp_uint(&m) == UINT64_MAX);
    mp_init(&m, sb.data, sb.size);
    assert_int_equal(mp_int(&m), 0);
    assert_true(m.failed);
    msgpack_sbuffer_destroy(&sb);
}

static void strings(void **state)
{
    static char text[70000];
    static const size_t lens[] = {0, 1, 31, 32, 255, 256, 65535, 65536};
    msgpack_sbuffer sb;
    msgpack_packer pk;
    struct mp m;
    size_t len;

    (void)state;
    memset(text, 'x', sizeof(text));
    msgpack_sbuffer_init(&sb);
    msgpack_packer_init(&pk, &sb, msgpack_sbuffer_write);
    for (size_t i = 0; i < 2 * sizeof(lens) / sizeof(lens[0]); i++) {
        size_t want = lens[i / 2];

        msgpack_sbuffer_clear(&sb);
        if (i % 2) {
            msgpack_pack_str(&pk, want);
            msgpack_pack_str_body(&pk, text, want);
        } else {
            msgpack_pack_bin(&pk, want);
            msgpack_pack_bin_body(&pk, text, want);
        }
        mp_init(&m, sb.data, sb.size);
        assert_int_equal(mp_peek(&m), i % 2 ? MP_STR : MP_BIN);
        assert_memory_equal(mp_str(&m, &len), text, want);
        assert_int_equal(len, want);
        assert_int_equal(mp_end(&m), 0);
        mp_init(&m, sb.data, sb.size - 1);
        assert_string_equal(mp_str(&m, &len), "");
        assert_int_equal(len, 0);
        assert_true(m.failed);
    }
    msgpack_sbuffer_destroy(&sb);
}

static void counts_are_bounded_by_what_is_left(void **state)
{
    BYTES(bomb, 0xdd, 0x01, 0x00, 0x00, 0x00);
    BYTES(map, 0x82, 0x01, 0x02, 0x03);
    BYTES(ok, 0x92, 0x01, 0x81, 0x02, 0xc3);

    (void)state;
    assert_int_equal(mp_array(&bomb), 0);
    assert_true(bomb.failed);
    assert_int_equal(mp_map(&map), 0);
    assert_true(map.failed);
    assert_int_equal(mp_array(&ok), 2);
    assert_int_equal(mp_uint(&ok), 1);
    assert_int_equal(mp_map(&ok), 1);
    assert_int_equal(mp_uint(&ok), 2);
    assert_true(mp_bool(&ok));
    assert_int_equal(mp_end(&ok), 0);
}

static void skips_every_kind(void **state)
{
    BYTES(m, 0xc0, 0xc2, 0xca, 1, 2, 3, 4, 0xcb, 1, 2, 3, 4, 5, 6, 7, 8, 0xd4, 1, 2, 0xd8, 1, 1, 2,
          3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xc7, 2, 9, 1, 2, 0xa1, 'x', 0xc4, 1,
          'y', 0xff, 0x93, 1, 0x81, 2, 0x90, 0x80, 0x05);
    BYTES(unused, 0xc1);
    BYTES(ext, 0xc9, 0xff, 0xff, 0xff, 0xff, 0x00);

    (void)state;
    for (int i = 0; i < 11; i++)
        mp_skip(&m);
    assert_int_equal(mp_uint(&m), 5);
    assert_int_equal(mp_end(&m), 0);
    mp_skip(&unused);
    assert_true(unused.failed);
    mp_skip(&ext);
    assert_true(ext.failed);
}

static void depth_is_bounded(void **state)
{
    uint8_t nest[MP_MAX_DEPTH + 2];
    struct mp m;

    (void)state;
    memset(nest, 0x91, sizeof(nest));
    nest[MP_MAX_DEPTH] = 0x01;
    mp_init(&m, nest, MP_MAX_DEPTH + 1);
    mp_skip(&m);
    assert_int_equal(mp_end(&m), 0);
    nest[MP_MAX_DEPTH] = 0x91;
    nest[MP_MAX_DEPTH + 1] = 0x01;
    mp_init(&m, nest, MP_MAX_DEPTH + 2);
    mp_skip(&m);
    assert_true(m.failed);
}

static void failed_stays_failed(void **state)
{
    BYTES(m, 0xa1, 'x', 0x05);
    size_t len;

    (void)state;
    assert_int_equal(mp_uint(&m), 0);
    assert_int_equal(mp_peek(&m), MP_END);
    assert_string_equal(mp_str(&m, &len), "");
    assert_false(mp_bool(&m));
    assert_int_equal(mp_array(&m), 0);
    assert_int_equal(mp_map(&m), 0);
    mp_skip(&m);
    assert_int_equal(mp_end(&m), -EPROTO);
    mp_init(&m, NULL, 0);
    assert_int_equal(mp_end(&m), 0);
    mp_skip(&m);
    assert_int_equal(mp_end(&m), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(strings),
        cmocka_unit_test(counts_are_bounded_by_what_is_left),
        cmocka_unit_test(skips_every_kind),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(failed_stays_failed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
