#ifndef MILONGA_VMM_PIPE_H
#define MILONGA_VMM_PIPE_H

/* The vmm's end of the pipe to an autodriver (docs/protocol.md, "The pipe"): whole frames out and
 * in over a machine's descriptors, in one poll loop that also sends the heartbeats and can be
 * interrupted. Reads while it writes, so that neither side waits for the other for ever. One
 * thread.
 *
 * Each call returns 0 or, with *err filled (ERR_TEMPORARY):
 *   -ETIMEDOUT  the deadline passed; nothing is lost, it may be called again
 *   -ECANCELED  stop_fd is readable
 *   -EPIPE      the machine has ended
 *   -EPROTO     what came is not our protocol */

#include "base/buf.h"
#include "base/err.h"
#include "machine.h"
#include "wire/frame.h"

struct pipe {
    struct machine *m; /* borrowed */
    int stop_fd;       /* eventfd; -1: not to be interrupted */
    int64_t beat_ms;   /* between heartbeats; 0: none (before the header there is no lease) */
    int64_t beat_at;
    struct buf in;
    size_t taken; /* bytes of `in` that the last frame given out takes up */
    struct buf out;
    bool deaf; /* a write has failed: nobody reads any more, but what was said before that is still
                  to be heard */
};

struct frame {
    enum frame_type type;
    const uint8_t *data; /* valid until the next call */
    uint32_t len;
};

void pipe_init(struct pipe *p, struct machine *m, int stop_fd);
void pipe_done(struct pipe *p);

/* From now on a heartbeat goes out every interval_ms, whenever the caller is in one of the calls
 * below. */
void pipe_beat(struct pipe *p, int64_t interval_ms);

/* Writes a whole frame. */
int pipe_send(struct pipe *p, enum frame_type type, const void *data, uint32_t len,
              int64_t deadline, struct error *err);
/* Waits for the next frame. */
int pipe_next(struct pipe *p, int64_t deadline, struct frame *ret, struct error *err);

/* Reads READY of a fresh machine and sets m->ready. Q gives its text as the reason. */
int pipe_ready(struct machine *m, int64_t deadline, int stop_fd, struct error *err);

#endif
