#include "wire/mp.h"

#include <errno.h>

void mp_init(struct mp *m, const void *data, size_t len)
{
    static const uint8_t nothing[1];

    m->at = data && len ? data : nothing;
    m->end = m->at + (data ? len : 0);
    m->failed = false;
}

static size_t mp_left(const struct mp *m)
{
    return (size_t)(m->end - m->at);
}

enum mp_kind mp_peek(const struct mp *m)
{
    uint8_t b;

    if (m->failed || m->at == m->end)
        return MP_END;
    b = *m->at;
    if (b <= 0x7f)
        return MP_UINT;
    if (b <= 0x8f)
        return MP_MAP;
    if (b <= 0x9f)
        return MP_ARRAY;
    if (b <= 0xbf)
        return MP_STR;
    if (b >= 0xe0)
        return MP_INT;
    switch (b) {
    case 0xc0:
        return MP_NIL;
    case 0xc2:
    case 0xc3:
        return MP_BOOL;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return MP_BIN;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return MP_UINT;
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return MP_INT;
    case 0xd9:
    case 0xda:
    case 0xdb:
        return MP_STR;
    case 0xdc:
    case 0xdd:
        return MP_ARRAY;
    case 0xde:
    case 0xdf:
        return MP_MAP;
    default:
        return MP_OTHER;
    }
}

static uint64_t mp_fail(struct mp *m)
{
    m->failed = true;
    return 0;
}

/* A big-endian number of `bytes` bytes, or 0 and failed. */
static uint64_t mp_take(struct mp *m, unsigned bytes)
{
    uint64_t n = 0;

    if (m->failed || mp_left(m) < bytes)
        return mp_fail(m);
    while (bytes-- > 0)
        n = n << 8 | *m->at++;
    return n;
}

/* An integer as 64 bits in two's complement, with its sign apart. */
static uint64_t mp_integer(struct mp *m, bool *ret_negative)
{
    enum mp_kind kind = mp_peek(m);
    uint8_t b;
    uint64_t n;

    *ret_negative = false;
    if (kind != MP_UINT && kind != MP_INT)
        return mp_fail(m);
    b = *m->at++;
    if (b <= 0x7f)
        return b;
    if (b >= 0xe0) {
        *ret_negative = true;
        return UINT64_MAX - 0xff + b;
    }
    if (kind == MP_UINT)
        return mp_take(m, 1U << (b - 0xcc));
    n = mp_take(m, 1U << (b - 0xd0));
    if (b == 0xd0)
        n = (uint64_t)(int8_t)n;
    else if (b == 0xd1)
        n = (uint64_t)(int16_t)n;
    else if (b == 0xd2)
        n = (uint64_t)(int32_t)n;
    *ret_negative = n >> 63;
    return n;
}

uint64_t mp_uint(struct mp *m)
{
    bool negative;
    uint64_t n = mp_integer(m, &negative);

    return negative ? mp_fail(m) : n;
}

int64_t mp_int(struct mp *m)
{
    bool negative;
    uint64_t n = mp_integer(m, &negative);

    if (!negative && n > INT64_MAX)
        return (int64_t)mp_fail(m);
    return (int64_t)n;
}

bool mp_bool(struct mp *m)
{
    if (mp_peek(m) != MP_BOOL)
        return mp_fail(m);
    return *m->at++ == 0xc3;
}

const char *mp_str(struct mp *m, size_t *ret_len)
{
    enum mp_kind kind = mp_peek(m);
    const char *s;
    uint64_t len;
    uint8_t b;

    *ret_len = 0;
    if (kind != MP_STR && kind != MP_BIN) {
        mp_fail(m);
        return "";
    }
    b = *m->at++;
    if (b <= 0xbf)
        len = b & 0x1f;
    else
        len = mp_take(m, 1U << (b - (kind == MP_STR ? 0xd9 : 0xc4)));
    if (m->failed || len > mp_left(m)) {
        mp_fail(m);
        return "";
    }
    s = (const char *)m->at;
    m->at += len;
    *ret_len = (size_t)len;
    return s;
}

/* The head of an array or a map, whose elements take at least `least` bytes each. */
static uint32_t mp_count(struct mp *m, enum mp_kind kind, uint8_t head16, size_t least)
{
    uint64_t n;
    uint8_t b;

    if (mp_peek(m) != kind)
        return (uint32_t)mp_fail(m);
    b = *m->at++;
    n = b < 0xa0 ? b & 0x0f : mp_take(m, 2U << (b - head16));
    if (n > mp_left(m) / least)
        return (uint32_t)mp_fail(m);
    return (uint32_t)n;
}

uint32_t mp_array(struct mp *m)
{
    return mp_count(m, MP_ARRAY, 0xdc, 1);
}

uint32_t mp_map(struct mp *m)
{
    return mp_count(m, MP_MAP, 0xde, 2);
}

/* Floats and extensions, which we only step over. */
static void mp_skip_other(struct mp *m)
{
    uint8_t b = (uint8_t)mp_take(m, 1);
    uint64_t len;

    if (b == 0xca || b == 0xcb)
        len = b == 0xca ? 4 : 8;
    else if (b >= 0xd4 && b <= 0xd8) /* fixext: a type byte and 1, 2, 4, 8, 16 bytes */
        len = 1 + (1U << (b - 0xd4));
    else if (b >= 0xc7 && b <= 0xc9)
        len = 1 + mp_take(m, 1U << (b - 0xc7));
    else { /* 0xc1, which is never used */
        mp_fail(m);
        return;
    }
    if (m->failed || len > mp_left(m))
        mp_fail(m);
    else
        m->at += len;
}

void mp_skip(struct mp *m)
{
    uint64_t left[MP_MAX_DEPTH + 1] = {1}; /* values still to come, by depth */
    unsigned depth = 0;
    bool negative;
    size_t len;

    for (;;) {
        uint64_t inside = 0;

        while (left[depth] == 0) {
            if (depth == 0)
                return;
            depth--;
        }
        left[depth]--;
        switch (mp_peek(m)) {
        case MP_NIL:
            m->at++;
            break;
        case MP_BOOL:
            mp_bool(m);
            break;
        case MP_UINT:
        case MP_INT:
            mp_integer(m, &negative);
            break;
        case MP_STR:
        case MP_BIN:
            mp_str(m, &len);
            break;
        case MP_ARRAY:
            inside = mp_array(m);
            break;
        case MP_MAP:
            inside = 2 * (uint64_t)mp_map(m);
            break;
        case MP_OTHER:
            mp_skip_other(m);
            break;
        case MP_END:
            mp_fail(m);
            break;
        }
        if (m->failed)
            return;
        if (inside > 0) {
            if (depth == MP_MAX_DEPTH) {
                mp_fail(m);
                return;
            }
            left[++depth] = inside;
        }
    }
}

int mp_end(const struct mp *m)
{
    return m->failed || m->at != m->end ? -EPROTO : 0;
}
