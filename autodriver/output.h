#ifndef AUTODRIVER_OUTPUT_H
#define AUTODRIVER_OUTPUT_H

/* What the job writes: the first half of the limit as it comes, in coalesced pieces, the rest in a
 * ring of the other half, which goes out at the end. So a machine that dies has given the
 * beginning, and feedback has the end too, where the scores are. Memory is bounded by the limit,
 * and touched as it fills. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define OUTPUT_PIECE       16384
#define OUTPUT_COALESCE_MS 20
#define OUTPUT_LIMIT_MAX   (512ULL * 1024 * 1024)

struct output {
    uint64_t limit; /* bytes, 0 none */
    uint64_t head_max;
    uint64_t total;
    uint8_t piece[OUTPUT_PIECE];
    size_t piece_len;
    int64_t piece_since_ms;
    uint8_t *ring;
    size_t ring_cap;
    size_t ring_at;  /* where the next byte goes */
    size_t ring_len; /* valid bytes */
    size_t tail_sent;
};

void output_init(struct output *o, uint64_t limit);
void output_done(struct output *o);

/* Reads once from `fd`, as much as there is room for. Bytes, 0 at the end, -errno (-EAGAIN: nothing
 * there; -ENOBUFS: a piece must be sent first). */
ssize_t output_read(struct output *o, int fd, int64_t now);

/* When the piece is to be sent: its time, 0 at once, INT64_MAX there is none. */
int64_t output_due_ms(const struct output *o);
void output_piece_sent(struct output *o);

/* After the end, and after the last piece: the next bytes of the tail, at most OUTPUT_PIECE.
 * Length, 0 when all was taken. The bytes are valid until the next call. */
size_t output_tail(struct output *o, const uint8_t **ret);

/* Bytes between head and tail that are lost; 0 while the total is within the limit. */
uint64_t output_elided(const struct output *o);
/* Bytes before the gap. */
uint64_t output_head(const struct output *o);

#endif
