#ifndef MILONGA_API_SEND_H
#define MILONGA_API_SEND_H

/* Files of the store as answers: as they are, in pieces, read by workers. The ETag is the quoted
 * SHA-256, so a client that has the file costs no read. */

#include "services/api/call.h"

/* Ends the call: with the file (for HEAD its head only), or by failed(), which answers. */
void send_stored(struct call *c, const char *sha256,
                 void (*failed)(struct call *c, const struct core_answer *a));

/* The bytes of the file from `begin` to `end` (UINT64_MAX: to its own), or of those the range that
 * the client asks for: 200, 206, or 416 as a problem. */
void send_stored_part(struct call *c, const char *sha256, uint64_t begin, uint64_t end,
                      void (*failed)(struct call *c, const struct core_answer *a));

/* The same for bytes that are here and may become more: no ETag, and the total of a 206 is "*". */
void send_growing(struct call *c, const void *data, size_t len);

#endif
