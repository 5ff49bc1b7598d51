#ifndef MILONGA_CLIENT_REST_H
#define MILONGA_CLIENT_REST_H

/* The native API over libcurl: JSON in and out, files up, bytes and events down. A refusal of the
 * server is an error whose message is its `detail` with the fields that it names, whose code is
 * ENOENT (404), EACCES (401, 403), EBUSY (409), EINVAL (400, 422), EAGAIN (429, 503), and whose
 * class is REFUSED below 500. One thread. */

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct rest;

/* `key` may be NULL. */
struct rest *rest_new(const char *url, const char *key);
void rest_free(struct rest *r);
const char *rest_url(const struct rest *r);
const char *rest_key(const struct rest *r); /* or NULL */

/* A segment of a path, percent-encoded; the caller frees it. */
char *rest_quote(const char *segment);

/* One more header, "Name: value", of the next request only. */
void rest_header(struct rest *r, const char *text);

/* One request. `body` may be NULL; *ret (may be NULL) is the answer's JSON, the caller's, NULL when
 * it has none; *ret_status (may be NULL) the HTTP status. */
int rest_json(struct rest *r, const char *method, const char *path, const json_t *body,
              json_t **ret, long *ret_status, struct error *err);

/* PUT of a file of `size` bytes from `in`, with progress on stderr, a terminal, when asked for and
 * it takes time. */
int rest_upload(struct rest *r, const char *path, FILE *in, uint64_t size, bool progress,
                json_t **ret, struct error *err);

/* The bytes of an answer to `out`; `range` as "0-4095" or NULL. */
int rest_bytes(struct rest *r, const char *path, const char *range, FILE *out, struct error *err);

/* Server-Sent Events. `take` gets each event; 0 goes on, 1 ends the stream as done, negative (with
 * *err) ends it as failed. A stream that breaks, or a server that cannot be asked, is tried again
 * from the last id with backoff, until `give_up_ms` have passed without a byte of it (then the
 * error). */
typedef int rest_event_fn(void *arg, const char *event, const char *data, struct error *err);
int rest_events(struct rest *r, const char *path, int64_t give_up_ms, rest_event_fn *take,
                void *arg, struct error *err);

#endif
