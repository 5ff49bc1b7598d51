#ifndef MILONGA_STORE_IMPL_H
#define MILONGA_STORE_IMPL_H

/* Between store.c (the directory, which is the whole of the dir form and the cache of the http
 * form), store_http.c and store_collect.c. Nobody else includes it. */

#include "wire/store.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

struct store {
    char *root;
    int root_fd, blobs_fd, tmp_fd, meta_fd;
    struct store_http *http; /* NULL in the dir form */
    uint64_t cache_bytes;    /* http form: bound of the cache */
    pthread_mutex_t lock;    /* of `cached` */
    uint64_t cached; /* http form: bytes in the cache, about; counted anew when it is full */
};

struct store_writer {
    struct store *s;
    struct digest *sha256, *md5;
    int fd;
    uint64_t size;
    char tmp[64]; /* name in tmp/; "" while it has none, see tmp_create() */
};

/* "ab/abcd..." */
#define BLOB_PATH (3 + SHA256_HEX + 1)

bool store_digest_ok(const char *sha256);
void store_blob_path(const char *sha256, char path[BLOB_PATH]);

/* fstat() of a regular file that is opened for it: over NFS only what is opened is sure to be what
 * the server has now. 0 or -errno. */
int store_stat(int dir_fd, const char *path, struct stat *ret);

/* Finishes the digests and makes the bytes durable; the temp file stays. */
int store_writer_seal(struct store_writer *w, struct store_info *ret, struct error *err);
/* Gives the sealed temp file its place. */
int store_writer_place(struct store_writer *w, const struct store_info *info, struct error *err);

/* Frees a placed writer, but hands its descriptor on, at the start of the bytes. */
int store_writer_detach(struct store_writer *w);

/* A blob's descriptor and size; renews its age when `touch`. -ENOENT without filling an error. */
int store_blob_open(struct store *s, const char *sha256, bool touch, int *ret_fd,
                    uint64_t *ret_size);

/* `prefix` and STORE_RANDOM characters that no other process comes to. */
#define STORE_RANDOM 24
int store_name_random(const char *prefix, char *name, size_t size);

/* What a blob is called in tmp/, before its digest, while a collector decides over it; see
 * store_collect.c. */
#define STORE_GONE_TMP "gone-"

/* Puts back the blob, or all if NULL, that a collector has taken from its place and not yet
 * removed. True when there was one, so that it is worth to look again. */
bool store_gone_back(struct store *s, const char *sha256);

/* What a record is called in tmp/ for as long as it takes to rename it, before its own name. */
#define STORE_RECORD_TMP "record-"

/* Removes those whose writers died in between. One who still lives has his record refused, and
 * tries again. */
void store_record_sweep(struct store *s);

/* Removes the blobs that were used longest ago until the cache is within its bound. */
void store_cache_trim(struct store *s);

int store_http_open(struct store *s, const char *where, const char *key, struct error *err);
void store_http_close(struct store_http *h);
int store_http_get(struct store *s, const char *sha256, int *ret_fd, uint64_t *ret_size,
                   struct error *err);
int store_http_put(struct store *s, int fd, const struct store_info *info, struct error *err);
int store_http_has(struct store *s, const char *sha256);

#endif
