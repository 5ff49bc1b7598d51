#ifndef MILONGA_DISPATCHER_WEBHOOK_H
#define MILONGA_DISPATCHER_WEBHOOK_H

/* The signed form of a callback, as Standard Webhooks have it: a JSON body (docs/openapi.yaml,
 * CallbackBody), and over id, time and body an HMAC-SHA256 with the secret that the submitter gave.
 * Pure. */

#include "base/buf.h"
#include "wire/job.h"

#include <stdint.h>

/* Appends the body. Bytes of the feedback that are no UTF-8 were left out by the caller. */
void webhook_body(struct buf *out, const struct job *job, const char *id, const char *verdict,
                  const char *feedback, size_t len, int64_t finished_ms);

/* "v1,BASE64" to out, which has room for WEBHOOK_SIGNATURE; 0 or -EINVAL when the secret is none.
 */
#define WEBHOOK_SIGNATURE 64
int webhook_sign(const char *secret, const char *message_id, int64_t timestamp_s, const char *body,
                 size_t len, char out[WEBHOOK_SIGNATURE]);

#endif
