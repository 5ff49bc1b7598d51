#include "services/dispatcher/keepset.h"

#include "base/digest.h"
#include "base/mem.h"

#include <string.h>

static const unsigned char zeros[32];

void keepset_init(struct keepset *k)
{
    *k = (struct keepset){NULL, 0, 0};
}

void keepset_done(struct keepset *k)
{
    free(k->slots);
    keepset_init(k);
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

static bool from_hex(const char *hex, size_t len, unsigned char raw[32])
{
    if (len != SHA256_HEX)
        return false;
    for (size_t i = 0; i < 32; i++) {
        int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        raw[i] = (unsigned char)(high << 4 | low);
    }
    return memcmp(raw, zeros, 32) != 0;
}

/* Digests are spread evenly as they are. Where it is, or the free slot where it belongs. */
static size_t find(const struct keepset *k, const unsigned char raw[32])
{
    size_t at;

    memcpy(&at, raw, sizeof(at));
    for (at &= k->cap - 1;; at = (at + 1) & (k->cap - 1))
        if (memcmp(k->slots[at], raw, 32) == 0 || memcmp(k->slots[at], zeros, 32) == 0)
            return at;
}

static void grow(struct keepset *k)
{
    struct keepset bigger = {NULL, k->ct, k->cap ? k->cap * 2 : 1024};

    bigger.slots = xcalloc(bigger.cap, sizeof(*bigger.slots));
    for (size_t i = 0; i < k->cap; i++)
        if (memcmp(k->slots[i], zeros, 32) != 0)
            memcpy(bigger.slots[find(&bigger, k->slots[i])], k->slots[i], 32);
    free(k->slots);
    *k = bigger;
}

void keepset_add(struct keepset *k, const char *hex, size_t len)
{
    unsigned char raw[32];
    size_t at;

    if (!from_hex(hex, len, raw))
        return;
    if (k->ct * 4 >= k->cap * 3)
        grow(k);
    at = find(k, raw);
    if (memcmp(k->slots[at], zeros, 32) != 0)
        return;
    memcpy(k->slots[at], raw, 32);
    k->ct++;
}

bool keepset_has(const struct keepset *k, const char *hex, size_t len)
{
    unsigned char raw[32];

    return k->cap > 0 && from_hex(hex, len, raw) && memcmp(k->slots[find(k, raw)], zeros, 32) != 0;
}
