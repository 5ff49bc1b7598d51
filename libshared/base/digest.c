#include "base/digest.h"
#include "base/mem.h"

#include <openssl/evp.h>
#include <stdio.h>

struct digest {
    EVP_MD_CTX *ctx;
};

/* libcrypto fails here only without memory or with an algorithm switched off (FIPS and MD5). The
 * store cannot name a file then, and nothing a caller could do would help. */
static _Noreturn void broken(const char *what)
{
    fprintf(stderr,
            "libcrypto cannot %s; a FIPS configuration without MD5 and SHA-1 is not supported\n",
            what);
    abort();
}

static const EVP_MD *algorithm(enum digest_kind kind)
{
    switch (kind) {
    case DIGEST_SHA1:
        return EVP_sha1();
    case DIGEST_MD5:
        return EVP_md5();
    case DIGEST_SHA256:
        break;
    }
    return EVP_sha256();
}

struct digest *digest_new(enum digest_kind kind)
{
    struct digest *d = xcalloc(1, sizeof(*d));

    d->ctx = EVP_MD_CTX_new();
    if (!d->ctx || EVP_DigestInit_ex(d->ctx, algorithm(kind), NULL) != 1)
        broken("start a digest");
    return d;
}

void digest_update(struct digest *d, const void *data, size_t len)
{
    if (len && EVP_DigestUpdate(d->ctx, data, len) != 1)
        broken("go on with a digest");
}

void digest_final(struct digest *d, char *hex)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (EVP_DigestFinal_ex(d->ctx, raw, &len) != 1)
        broken("finish a digest");
    for (unsigned i = 0; i < len; i++) {
        hex[2 * i] = digits[raw[i] >> 4];
        hex[2 * i + 1] = digits[raw[i] & 15];
    }
    hex[2 * len] = '\0';
    digest_free(d);
}

void digest_free(struct digest *d)
{
    if (!d)
        return;
    EVP_MD_CTX_free(d->ctx);
    free(d);
}

void digest_hex(enum digest_kind kind, const void *data, size_t len, char *hex)
{
    struct digest *d = digest_new(kind);

    digest_update(d, data, len);
    digest_final(d, hex);
}
