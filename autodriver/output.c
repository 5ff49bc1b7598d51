#include "output.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RING_READ_MAX (64 * 1024)

void output_init(struct output *o, uint64_t limit)
{
    memset(o, 0, sizeof(*o));
    o->limit = limit;
    o->head_max = limit ? limit / 2 : UINT64_MAX;
    o->ring_cap = (size_t)(limit - limit / 2); /* the odd byte, so that `limit` bytes fit whole */
}

void output_done(struct output *o)
{
    if (o->ring)
        munmap(o->ring, o->ring_cap);
    o->ring = NULL;
}

static ssize_t read_once(int fd, void *buf, size_t len)
{
    ssize_t n;

    do
        n = read(fd, buf, len);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t read_piece(struct output *o, int fd, int64_t now)
{
    size_t room = OUTPUT_PIECE - o->piece_len;
    ssize_t n;

    if (room > o->head_max - o->total)
        room = (size_t)(o->head_max - o->total);
    if (room == 0)
        return -ENOBUFS;
    n = read_once(fd, o->piece + o->piece_len, room);
    if (n <= 0)
        return n;
    if (o->piece_len == 0)
        o->piece_since_ms = now;
    o->piece_len += (size_t)n;
    o->total += (uint64_t)n;
    return n;
}

static ssize_t read_ring(struct output *o, int fd)
{
    size_t room = o->ring_cap - o->ring_at;
    ssize_t n;

    if (!o->ring) {
        o->ring =
            mmap(NULL, o->ring_cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (o->ring == MAP_FAILED) {
            o->ring = NULL;
            return -ENOMEM;
        }
    }
    if (room > RING_READ_MAX)
        room = RING_READ_MAX;
    n = read_once(fd, o->ring + o->ring_at, room);
    if (n <= 0)
        return n;
    o->total += (uint64_t)n;
    o->ring_at = (o->ring_at + (size_t)n) % o->ring_cap;
    o->ring_len = o->ring_cap - o->ring_len < (size_t)n ? o->ring_cap : o->ring_len + (size_t)n;
    return n;
}

ssize_t output_read(struct output *o, int fd, int64_t now)
{
    if (o->total < o->head_max)
        return read_piece(o, fd, now);
    return read_ring(o, fd);
}

int64_t output_due_ms(const struct output *o)
{
    if (o->piece_len == 0)
        return INT64_MAX;
    if (o->piece_len == OUTPUT_PIECE || o->total >= o->head_max)
        return 0;
    return o->piece_since_ms + OUTPUT_COALESCE_MS;
}

void output_piece_sent(struct output *o)
{
    o->piece_len = 0;
}

uint64_t output_elided(const struct output *o)
{
    return o->limit && o->total > o->limit ? o->total - o->limit / 2 * 2 : 0;
}

uint64_t output_head(const struct output *o)
{
    return output_elided(o) ? o->head_max : o->total;
}

size_t output_tail(struct output *o, const uint8_t **ret)
{
    /* Over the limit both halves are limit/2, as Tango has it; the ring may hold one byte more. */
    size_t tail = output_elided(o) ? (size_t)(o->limit / 2) : o->ring_len;
    size_t left = tail - o->tail_sent;
    size_t at, len;

    if (left == 0)
        return 0;
    at = (o->ring_at + o->ring_cap - left) % o->ring_cap;
    len = o->ring_cap - at;
    if (len > left)
        len = left;
    if (len > OUTPUT_PIECE)
        len = OUTPUT_PIECE;
    *ret = o->ring + at;
    o->tail_sent += len;
    return len;
}
