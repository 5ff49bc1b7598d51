#ifndef MILONGA_FRAME_H
#define MILONGA_FRAME_H

/* The framed protocol on the pipe between a vmm and an autodriver (docs/protocol.md, "The pipe").
 *
 * A frame is a 5-byte head, 4 bytes big-endian payload length and 1 byte type, and then the payload
 * of at most FRAME_MAX bytes. This file needs libc only and is compiled into the static autodriver
 * too. The same stream is read the same way on both sides: feed bytes, take frames. */

#include <stddef.h>
#include <stdint.h>

#define FRAME_VERSION 1
#define FRAME_HEAD    5
#define FRAME_MAX     65536

enum frame_type {
    /* vmm -> autodriver */
    FRAME_HEADER = 'H',    /* text, "key=value\n" lines: what to run and its limits */
    FRAME_TAR = 'T',       /* a piece of the input tar stream */
    FRAME_TAR_END = 'E',   /* no payload: the input is complete */
    FRAME_GO = 'G',        /* no payload: run */
    FRAME_HEARTBEAT = 'B', /* no payload: the lease goes on */
    FRAME_CANCEL = 'C',    /* no payload: kill the job now and report */
    /* autodriver -> vmm */
    FRAME_READY = 'R',   /* text, "version=1\n..." : waits for its header */
    FRAME_LOADED = 'L',  /* no payload: input unpacked, waits for go */
    FRAME_STARTED = 'S', /* no payload: the job runs */
    FRAME_OUTPUT = 'O',  /* bytes of the job's stdout and stderr, as they were written */
    FRAME_FINAL = 'X',   /* text, "key=value\n" lines: how it ended; then the autodriver exits */
    FRAME_ERROR = 'Q',   /* text: why it cannot go on; then the autodriver exits with 3 */
};

/* Writes the head of a frame to out[FRAME_HEAD]. */
void frame_head(uint8_t *out, enum frame_type type, uint32_t payload_len);

/* Looks at the first `len` bytes of a stream. Returns 1 with *ret_type, *ret_payload_len when a
 * whole head is there and the whole payload too, 0 when more bytes are needed, -EPROTO when the
 * length is over FRAME_MAX or the type is none of the above. */
int frame_peek(const uint8_t *data, size_t len, enum frame_type *ret_type,
               uint32_t *ret_payload_len);

/* "key=value\n" lines, as in FRAME_HEADER, FRAME_READY and FRAME_FINAL. Values hold no newline;
 * order is free; unknown keys are for newer peers and are skipped. Finds `key` in text[len]:
 * returns the value's length and points *ret_value into text, or -ENOENT. */
int frame_field(const char *text, size_t len, const char *key, const char **ret_value);
/* As an unsigned decimal number; -ENOENT, or -EINVAL when it is none or over UINT64_MAX. */
int frame_field_u64(const char *text, size_t len, const char *key, uint64_t *ret);

#endif
