/* Removal of what nobody needs, and of what a cache has no room for.
 *
 * Against a collector that has just found a blob to be old while somebody renews it, without a
 * lock, since who stands still with a lock holds up everybody: a collector first takes the blob
 * from its place, under a name of its own in tmp/, and only then looks at the age that counts.
 * Renewing is to renew and then to see the blob at its place. So either the collector finds it
 * renewed, and puts it back, or who renews finds it gone. Who misses a blob looks in tmp/ before he
 * says so, and puts back what he finds there: a collector may have died, or stand still, between
 * the two. Putting back is always safe: what is needed by nobody is old still, and found again. */

#include "wire/store_impl.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SHARDS        256
#define TMP_MAX_AGE_S 86400
#define GONE_NAME     (sizeof(STORE_GONE_TMP) + SHA256_HEX + 1 + STORE_RANDOM)

struct blob {
    char sha256[SHA256_HEX + 1];
    struct timespec mtime;
    uint64_t size;
};

struct blobs {
    struct blob *list;
    size_t ct, cap;
};

static DIR *dir_at(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d && fd >= 0)
        close(fd);
    return d;
}

static DIR *shard_at(struct store *s, unsigned shard)
{
    char name[8];

    snprintf(name, sizeof(name), "%02x", shard & (SHARDS - 1));
    return dir_at(s->blobs_fd, name);
}

static int64_t age_s(const struct stat *st)
{
    return (int64_t)time(NULL) - (int64_t)st->st_mtime;
}

static struct blob *blobs_add(struct blobs *b, const char *sha256)
{
    if (b->ct == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->list = xrealloc(b->list, b->cap * sizeof(*b->list));
    }
    b->list[b->ct] = (struct blob){{0}};
    memcpy(b->list[b->ct].sha256, sha256, SHA256_HEX);
    return &b->list[b->ct++];
}

/* ---- Collecting
 * ---------------------------------------------------------------------------------- */

/* The place of a blob in a round, which survives that others come and go: the first 32 bits of its
 * digest, in the order of which a round goes. */
static unsigned blob_place(const char *sha256)
{
    char head[9];

    memcpy(head, sha256, 8);
    head[8] = '\0';
    return (unsigned)strtoul(head, NULL, 16);
}

static int by_digest(const void *a, const void *b)
{
    return strcmp(((const struct blob *)a)->sha256, ((const struct blob *)b)->sha256);
}

static void shard_list(struct store *s, unsigned shard, unsigned from, struct blobs *ret)
{
    DIR *d = shard_at(s, shard);
    struct dirent *e;

    ret->ct = 0;
    if (!d)
        return;
    while ((e = readdir(d)))
        if (store_digest_ok(e->d_name) && blob_place(e->d_name) >= from)
            blobs_add(ret, e->d_name);
    closedir(d);
    if (ret->ct > 1)
        qsort(ret->list, ret->ct, sizeof(*ret->list), by_digest);
}

/* `tmp/name` gets the name `path` as well, or, on a file system without hard links, instead. 0,
 * also when there is one by now; else -errno. */
static int gone_name(struct store *s, const char *name, const char *path)
{
    int r = linkat(s->tmp_fd, name, s->blobs_fd, path, 0) < 0 ? -errno : 0;

    if (r == -EPERM || r == -EOPNOTSUPP || r == -ENOSYS || r == -EMLINK)
        r = renameat2(s->tmp_fd, name, s->blobs_fd, path, RENAME_NOREPLACE) < 0 ? -errno : 0;
    /* Some file systems cannot even do that. What is replaced has the same bytes; it may have been
     * renewed, so what replaces it is to be no older. */
    if (r == -EINVAL)
        r = utimensat(s->tmp_fd, name, NULL, 0) < 0 ||
                    renameat(s->tmp_fd, name, s->blobs_fd, path) < 0
                ? -errno
                : 0;
    return r == -EEXIST ? 0 : r;
}

/* Puts back what a collector took from its place. True when it is there; no harm when it went
 * meanwhile. */
static bool gone_put_back(struct store *s, const char *name)
{
    char sha256[SHA256_HEX + 1], path[BLOB_PATH];
    cleanup_close int shard = -1;

    snprintf(sha256, sizeof(sha256), "%s", name + strlen(STORE_GONE_TMP));
    if (!store_digest_ok(sha256))
        return false;
    store_blob_path(sha256, path);
    if (gone_name(s, name, path) < 0)
        return false;
    path[2] = '\0';
    shard = openat(s->blobs_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (shard >= 0 && fsync(shard) == 0)
        unlinkat(s->tmp_fd, name, 0);
    return true;
}

bool store_gone_back(struct store *s, const char *sha256)
{
    cleanup_free char *prefix = xasprintf(STORE_GONE_TMP "%s", sha256 ? sha256 : "");
    DIR *d = dir_at(s->root_fd, "tmp");
    struct dirent *e;
    bool found = false;

    while (d && (e = readdir(d)))
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
            found |= gone_put_back(s, e->d_name);
    if (d)
        closedir(d);
    return found;
}

/* 1 when it went. */
static int blob_collect(struct store *s, const char *sha256,
                        int (*keep)(void *arg, const char *sha256), void *arg, int64_t grace_s)
{
    cleanup_free char *prefix = xasprintf(STORE_GONE_TMP "%s-", sha256);
    char path[BLOB_PATH], gone[GONE_NAME];
    struct stat st;

    store_blob_path(sha256, path);
    if (store_stat(s->blobs_fd, path, &st) < 0 || age_s(&st) <= grace_s)
        return 0;
    if (keep(arg, sha256) != 0 || store_name_random(prefix, gone, sizeof(gone)) < 0)
        return 0;
    if (renameat(s->blobs_fd, path, s->tmp_fd, gone) < 0)
        return 0;
    if (store_stat(s->tmp_fd, gone, &st) == 0 && age_s(&st) > grace_s)
        return unlinkat(s->tmp_fd, gone, 0) == 0;
    gone_put_back(s, gone);
    return 0;
}

static void tmp_clean(struct store *s)
{
    DIR *d = dir_at(s->root_fd, "tmp");
    struct dirent *e;
    struct stat st;

    if (!d)
        return;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.' &&
            strncmp(e->d_name, STORE_GONE_TMP, strlen(STORE_GONE_TMP)) != 0 &&
            fstatat(s->tmp_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            age_s(&st) > TMP_MAX_AGE_S)
            unlinkat(s->tmp_fd, e->d_name, 0);
    closedir(d);
}

void store_record_sweep(struct store *s)
{
    DIR *d = dir_at(s->root_fd, "tmp");
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (strncmp(e->d_name, STORE_RECORD_TMP, strlen(STORE_RECORD_TMP)) == 0)
            unlinkat(s->tmp_fd, e->d_name, 0);
    if (d)
        closedir(d);
}

int store_collect(struct store *s, int (*keep)(void *arg, const char *sha256), void *arg,
                  int64_t grace_s, int slice, unsigned *cursor, struct error *err)
{
    struct blobs blobs = {0};
    unsigned at = *cursor;
    int gone = 0, looked = 0;

    if (s->http)
        return err_set(err, ERR_PERMANENT, ENOTSUP,
                       "an http store is collected where its directory is");
    if (slice <= 0)
        return err_set(err, ERR_BUG, EINVAL, "a slice of %d files to collect", slice);
    if (at == 0) {
        tmp_clean(s);
        store_gone_back(s, NULL);
    }
    for (unsigned shard = at >> 24; shard < SHARDS; shard++) {
        shard_list(s, shard, at, &blobs);
        for (size_t i = 0; i < blobs.ct; i++) {
            if (looked++ == slice) {
                at = blob_place(blobs.list[i].sha256);
                goto out;
            }
            gone += blob_collect(s, blobs.list[i].sha256, keep, arg, grace_s);
            /* of two in one place, the second has its turn when a round is cut elsewhere */
            at = blob_place(blobs.list[i].sha256) + 1;
        }
    }
    at = 0;
out:
    free(blobs.list);
    *cursor = at;
    return gone;
}

/* ---- The bound of a cache
 * ------------------------------------------------------------------------ */

static int by_age(const void *a, const void *b)
{
    const struct timespec *x = &((const struct blob *)a)->mtime;
    const struct timespec *y = &((const struct blob *)b)->mtime;

    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

static uint64_t cache_list(struct store *s, struct blobs *ret)
{
    uint64_t bytes = 0;

    for (unsigned shard = 0; shard < SHARDS; shard++) {
        DIR *d = shard_at(s, shard);
        struct dirent *e;
        struct stat st;

        while (d && (e = readdir(d))) {
            struct blob *b;

            if (!store_digest_ok(e->d_name) ||
                fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                continue;
            b = blobs_add(ret, e->d_name);
            b->mtime = st.st_mtim;
            b->size = (uint64_t)st.st_size;
            bytes += b->size;
        }
        if (d)
            closedir(d);
    }
    return bytes;
}

void store_cache_trim(struct store *s)
{
    struct blobs blobs = {0};
    /* A little under the bound, or each further file would have the whole cache looked at. */
    uint64_t bytes, goal = s->cache_bytes - s->cache_bytes / 10;

    tmp_clean(s);
    pthread_mutex_lock(&s->lock);
    bytes = cache_list(s, &blobs);
    if (bytes > s->cache_bytes) {
        qsort(blobs.list, blobs.ct, sizeof(*blobs.list), by_age);
        for (size_t i = 0; i < blobs.ct && bytes > goal; i++) {
            char path[BLOB_PATH];

            store_blob_path(blobs.list[i].sha256, path);
            if (unlinkat(s->blobs_fd, path, 0) == 0)
                bytes -= blobs.list[i].size;
        }
    }
    s->cached = bytes;
    pthread_mutex_unlock(&s->lock);
    free(blobs.list);
}
