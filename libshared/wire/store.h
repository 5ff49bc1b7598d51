#ifndef MILONGA_STORE_H
#define MILONGA_STORE_H

/* The store: files by the SHA-256 of their content, written temp + fsync + rename + fsync of the
 * directory, deduplicated. One interface, two forms: `dir` (a directory on this host or a shared
 * volume) and `http` (authenticated GET/PUT by digest on an api, with a bounded cache directory),
 * so that a vmm host needs no shared disk. Every call may block on a disk or a network: never call
 * from an event loop. Safe from any thread; a file is seen whole or not at all.
 *
 * A cache holds no more than cache_bytes, what was used longest ago going first, plus what is being
 * downloaded, each at most that large; a larger file is refused (EFBIG).
 *
 * dir layout: <root>/blobs/ab/abcd...; <root>/tmp/ for writes and removals under way; <root>/meta/
 * for the small records below. */

#include "base/digest.h"
#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct store;

/* `where` is a directory, or an http(s) URL with `key` and a cache directory of at most
 * cache_bytes. Makes the directories that are missing (mode 0700). */
struct store_options {
    const char *where;
    const char *key;       /* http only */
    const char *cache_dir; /* http only */
    uint64_t cache_bytes;  /* http only */
};
int store_open(const struct store_options *opt, struct store **ret, struct error *err);
void store_close(struct store *s);

/* Writing: begin, write any number of times, then commit (durable; hex filled) or drop. The writer
 * hashes as it goes, SHA-256 and MD5 in one pass. commit and drop both free it. */
struct store_writer;
int store_write_begin(struct store *s, struct store_writer **ret, struct error *err);
int store_write(struct store_writer *w, const void *data, size_t len, struct error *err);
struct store_info {
    char sha256[SHA256_HEX + 1];
    char md5[MD5_HEX + 1];
    uint64_t size;
};
int store_write_commit(struct store_writer *w, struct store_info *ret, struct error *err);
void store_write_drop(struct store_writer *w);

/* The three of them for bytes in memory. */
int store_put(struct store *s, const void *data, size_t len, struct store_info *ret,
              struct error *err);

/* A readable descriptor, the caller's to close, and the size. ENOENT (ERR_PERMANENT) when the store
 * has no such file; -EINVAL when it is not a digest. */
int store_get(struct store *s, const char *sha256, int *ret_fd, uint64_t *ret_size,
              struct error *err);

/* 1 there, 0 not, negative when that can not be told; renews its age, so that a collector spares it
 * for its grace. */
int store_has(struct store *s, const char *sha256);

/* Small records beside the blobs (id high-water mark, generation): replaced atomically and durably.
 * name is [a-z0-9-]. dir form only (-ENOTSUP else). get: *ret is NUL-terminated, caller frees;
 * -ENOENT when there is none. list: calls fn with each name that begins with `prefix`, until it
 * returns nonzero, which is returned. drop: 0 also when there is none. */
int store_meta_put(struct store *s, const char *name, const char *text, struct error *err);
int store_meta_get(struct store *s, const char *name, char **ret, struct error *err);
int store_meta_list(struct store *s, const char *prefix, int (*fn)(void *arg, const char *name),
                    void *arg, struct error *err);
int store_meta_drop(struct store *s, const char *name, struct error *err);

/* Removes blobs for which keep() says 0 and that were last used more than grace_s ago, and
 * abandoned temp files of more than a day; looks at no more than `slice` blobs a call and goes on
 * from there at the next
 * (*cursor starts as 0 and is 0 again after a full round). Returns how many went, or
 * negative. dir form only (-ENOTSUP else). */
int store_collect(struct store *s, int (*keep)(void *arg, const char *sha256), void *arg,
                  int64_t grace_s, int slice, unsigned *cursor, struct error *err);

#endif
