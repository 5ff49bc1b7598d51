#ifndef MILONGA_DIGEST_H
#define MILONGA_DIGEST_H

/* SHA-256, SHA-1 and MD5 over libcrypto, as lower-case hex. SHA-256 names what the store holds; MD5
 * is what Tango's `open` tells (spec/tango 1.4); SHA-1 is for ETags and EVALSHA. */

#include <stddef.h>

#define SHA256_HEX 64
#define SHA1_HEX   40
#define MD5_HEX    32

enum digest_kind { DIGEST_SHA256, DIGEST_SHA1, DIGEST_MD5 };

struct digest; /* a running computation; one thread */

struct digest *digest_new(enum digest_kind kind);
void digest_update(struct digest *d, const void *data, size_t len);
/* Writes hex and a NUL (SHA256_HEX + 1 bytes fit every kind) and frees d. */
void digest_final(struct digest *d, char *hex);
void digest_free(struct digest *d);

void digest_hex(enum digest_kind kind, const void *data, size_t len, char *hex);

#endif
