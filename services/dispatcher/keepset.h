#ifndef MILONGA_DISPATCHER_KEEPSET_H
#define MILONGA_DISPATCHER_KEEPSET_H

/* A set of digests: what the store's collector must keep. 33 bytes a digest or a little more. One
 * thread. */

#include <stdbool.h>
#include <stddef.h>

struct keepset {
    unsigned char (*slots)[32]; /* open addressing; all zeros: free */
    size_t ct;
    size_t cap; /* a power of 2, or 0 */
};

void keepset_init(struct keepset *k);
void keepset_done(struct keepset *k);

/* hex[64]; what is none is not added. */
void keepset_add(struct keepset *k, const char *hex, size_t len);
bool keepset_has(const struct keepset *k, const char *hex, size_t len);

#endif
