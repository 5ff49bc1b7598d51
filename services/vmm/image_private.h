#ifndef MILONGA_IMAGE_PRIVATE_H
#define MILONGA_IMAGE_PRIVATE_H

/* Between image.c (the store), image_import.c (archives) and image_layer.c (unpacking); archives
 * also for drivers whose engines have a store of their own. */

#include "services/vmm/image.h"

#include "base/digest.h"

/* Caps of one image; far over what course images need, far under what fills a disk unnoticed. */
#define IMAGE_BYTES_MAX   (64ULL << 30)
#define IMAGE_ENTRIES_MAX 4000000ULL
#define IMAGE_DEPTH_MAX   128 /* components of a path; bounds image_rmtree() too */
#define IMAGE_JSON_MAX    (4u << 20)

struct image_store {
    char *path;
    int dir_fd;
    int layers_fd;
    int names_fd;
    int tmp_fd;
};

/* A directory below tmp/ that belongs to one import. */
struct image_work {
    char name[32];
    int fd; /* locked */
};

int image_work_begin(struct image_store *s, struct image_work *w, struct error *err);
void image_work_end(struct image_store *s, struct image_work *w);

/* The store's own lock, LOCK_SH or LOCK_EX; returns a descriptor to close. Held for moments only.
 */
int image_store_lock(struct image_store *s, int how, struct error *err);
/* Makes the unpacked layers of w (directories named by hex) and the record visible together. */
int image_commit(struct image_store *s, struct image_work *w, const struct image_info *i,
                 struct error *err);
/* Collects layers that no record names and nothing uses, and what dead imports left. */
void image_sweep(struct image_store *s);

struct archive;
/* A tar, compressed or not, read from the begin of fd, which is borrowed. The caller's to
 * archive_read_free(); NULL: it is none. */
struct archive *image_archive_open(int fd, struct error *err);

struct layer_budget {
    uint64_t bytes;
    uint64_t entries;
    uint64_t skipped; /* device nodes and sockets, which no machine needs */
};

/* Unpacks a layer (tar, compressed or not) from file_fd's start into the directory dir_fd, in a
 * child that has chrooted into it. Takes what it used off *budget; writes the SHA-256 of the
 * uncompressed bytes. */
int image_layer_unpack(int dir_fd, int file_fd, struct layer_budget *budget,
                       char hex[SHA256_HEX + 1], struct error *err);

#endif
