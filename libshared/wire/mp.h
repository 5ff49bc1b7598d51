#ifndef MILONGA_MP_H
#define MILONGA_MP_H

/* A bounded cursor over msgpack bytes. msgpack-c's unpacker reserves what an array header claims
 * (5 bytes make it ask for 500 MB), so reading is ours: nothing is allocated, every read is
 * checked, nesting is bounded, and a reader that has failed stays failed, so that a sequence of
 * reads needs one check at the end (after OpenSMTPD's m_get_*). Writing is msgpack-c's. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MP_MAX_DEPTH 8

enum mp_kind {
    MP_NIL,
    MP_BOOL,
    MP_UINT,
    MP_INT,
    MP_STR,
    MP_BIN,
    MP_ARRAY,
    MP_MAP,
    MP_OTHER,
    MP_END
};

struct mp {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

void mp_init(struct mp *m, const void *data, size_t len);
enum mp_kind mp_peek(const struct mp *m);

/* On a value of another kind, or bytes cut short, each marks m failed and returns 0/false/"". */
uint64_t mp_uint(struct mp *m);
int64_t mp_int(struct mp *m);
bool mp_bool(struct mp *m);
/* str or bin; points into the input, not NUL-terminated. */
const char *mp_str(struct mp *m, size_t *ret_len);
/* Number of elements that follow (pairs for a map). Each element takes at least one byte, so a
 * count over what is left is refused. */
uint32_t mp_array(struct mp *m);
uint32_t mp_map(struct mp *m);
/* Steps over one value whatever it is, at most MP_MAX_DEPTH deep. */
void mp_skip(struct mp *m);
/* 0 when all bytes were used and nothing failed, else -EPROTO. */
int mp_end(const struct mp *m);

#endif
