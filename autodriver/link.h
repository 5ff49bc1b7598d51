#ifndef AUTODRIVER_LINK_H
#define AUTODRIVER_LINK_H

/* The pipe to the vmm, non-blocking both ways: frames in, frames out, through buffers of a fixed
 * size. Nobody in here waits, so that a vmm that does not read cannot stop the job's clock. */

#include "wire/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINK_IN_CAP  (FRAME_HEAD + FRAME_MAX + 65536)
#define LINK_OUT_CAP (256 * 1024)
/* Kept free of output, for the frames that tell how it went. */
#define LINK_OUT_RESERVE 8192

struct link {
    int in_fd, out_fd;
    bool in_eof; /* the vmm closed its end, or cannot be written to */
    uint8_t *in;
    size_t in_len;
    size_t in_taken; /* bytes of the frame that link_next() gave out last */
    uint8_t *out;
    size_t out_len;
};

/* Takes the descriptors. 0 or -errno. */
int link_init(struct link *l, int in_fd, int out_fd);
void link_done(struct link *l);

/* Reads once: > 0, 0 at the end (in_eof), -EAGAIN. */
int link_read(struct link *l);

/* The next whole frame: 1, 0 none yet, -EPROTO the stream makes no sense. *ret_data is valid until
 * the next call of link_next() or link_read(). */
int link_next(struct link *l, enum frame_type *ret_type, const uint8_t **ret_data,
              uint32_t *ret_len);

/* Room for an output frame's payload. */
size_t link_room(const struct link *l);

/* Puts a frame behind what waits. 0, or -ENOBUFS. */
int link_send(struct link *l, enum frame_type type, const void *data, size_t len);
int link_send_text(struct link *l, enum frame_type type, const char *text);

/* Writes what the pipe takes. */
void link_flush(struct link *l);

#endif
