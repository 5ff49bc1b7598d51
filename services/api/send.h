#ifndef MILONGA_API_SEND_H
#define MILONGA_API_SEND_H

/* Files of the store as answers: as they are, in pieces, read by workers. The ETag is the quoted
 * SHA-256, so a client that has the file costs no read. */

#include "services/api/call.h"

/* Ends the call: with the file (for HEAD its head only), or by failed(), which answers. */
void send_stored(struct call *c, const char *sha256,
                 void (*failed)(struct call *c, const struct core_answer *a));

#endif
