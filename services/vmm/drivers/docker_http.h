#ifndef MILONGA_DOCKER_HTTP_H
#define MILONGA_DOCKER_HTTP_H

/* A client of a container engine's API (Docker's, which Podman speaks too) over its unix socket.
 * Any thread may call; connections are kept and lent to one call at a time. A call blocks within
 * its deadline and until its cancel_fd becomes readable. */

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct engine;

/* Says nothing to the engine yet. ERR_PERMANENT when the URL is of a kind that is not spoken. */
int engine_new(const char *url, struct engine **ret, struct error *err);
void engine_free(struct engine *e);
/* Before the first call: what ends those that have no cancel_fd of their own; one that removes
 * something is given a moment still. */
void engine_stop_fd(struct engine *e, int fd);

struct engine_upload {
    int fd; /* a regular file, read from its beginning */
    int64_t len;
};

struct engine_call {
    const char *method;
    const char *path; /* with the query; the API's version is put before it */
    const json_t *json;
    const struct engine_upload *upload; /* instead of json */
    int64_t deadline;
    int cancel_fd; /* -1: none */
    /* A call that makes something is given so long to end by itself once it is cancelled, or what
     * it makes would appear behind our back. */
    int64_t grace_ms;
    size_t reply_max; /* bytes; 0: 1 MB */
};

struct engine_reply {
    long status;
    unsigned api_minor; /* of an Api-Version header; 0: none */
    struct buf body;
};

/* 0 whatever the status is; *ret is filled then and the caller's to engine_reply_done().
 * -ETIMEDOUT, -ECANCELED and what else befalls a connection are ERR_TEMPORARY. */
int engine_call(struct engine *e, const struct engine_call *c, struct engine_reply *ret,
                struct error *err);
void engine_reply_done(struct engine_reply *r);

/* Fills *err with what the engine said of a call that failed: the class follows the status (400 and
 * 404 REFUSED, the rest TEMPORARY). Returns the negative code. */
int engine_refusal(const struct engine_reply *r, struct error *err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A GET whose answer is JSON; anything but status 200 is an error by engine_refusal(). */
int engine_get(struct engine *e, const char *path, int64_t deadline, int cancel_fd, json_t **ret,
               struct error *err);

/* /_ping: settles which version of the API is spoken from now on. */
int engine_ping(struct engine *e, int64_t deadline, struct error *err);

/* Attaches to a container's stdin, stdout and stderr: *ret_fd is a non-blocking socket, to be read
 * through engine_strip(). */
int engine_attach(struct engine *e, const char *container, int64_t deadline, int cancel_fd,
                  int *ret_fd, struct error *err);

/* ---- the attached stream ---- */

/* The engine puts 8 bytes before each piece: which stream, 3 zeros, big-endian length. */
struct engine_demux {
    uint8_t head[8];
    unsigned have; /* bytes of head */
    uint32_t left; /* of the piece */
};

/* Takes the framing off data[len] in place: returns how many bytes of stdout are now at its
 * beginning (stderr is dropped), or -EPROTO. */
ssize_t engine_strip(struct engine_demux *d, uint8_t *data, size_t len);

#endif
