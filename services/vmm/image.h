#ifndef MILONGA_IMAGE_H
#define MILONGA_IMAGE_H

/* Images of the oci driver, content-addressed, under <data_dir>/images:
 *
 *   layers/<sha256 of the uncompressed layer>/   unpacked once, shared by every image that has it
 *   names/<sha256 of the name>                   a JSON record: name, digest, layers, sizes
 *   tmp/                                         imports and removals under way, each locked by its
 * owner
 *
 * Everything becomes visible by rename. A store may be used by several threads and processes at
 * once: a vmm that runs machines and a `milonga image` beside it. A layer that a machine stands on
 * is locked (flock, shared) and so cannot be removed. Layers are in overlayfs's own form: a
 * whiteout is a character device 0/0, an opaque directory has the xattr trusted.overlay.opaque. */

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_LAYERS_MAX 127

struct image_store;

struct image_info {
    char *name;
    char *digest;  /* "sha256:..." */
    char **layers; /* hex, lowest first */
    size_t layer_ct;
    uint64_t bytes; /* of regular files, in all layers */
    uint64_t entries;
    int64_t imported_ms; /* wall */
};

/* Makes the directories where they are missing. */
int image_store_open(const char *data_dir, struct image_store **ret, struct error *err);
void image_store_close(struct image_store *s);

/* Calls each() for every image, in no order; the info is valid during the call. */
int image_list(struct image_store *s, void (*each)(void *arg, const struct image_info *i),
               void *arg, struct error *err);

/* Imports an archive of `docker save`, an OCI layout, or a root file system, each as tar,
 * compressed or not, under `name`; one of that name is replaced, and kept under a name that tells
 * its digest (base/image_name.h) until it is removed. *ret (may be NULL) is to be given to
 * image_info_done(). */
int image_import(struct image_store *s, const char *path, const char *name, struct image_info *ret,
                 struct error *err);
/* -ENOENT; -EBUSY while a machine uses it. */
int image_remove(struct image_store *s, const char *name, struct error *err);
void image_info_done(struct image_info *i);

/* Layers held open and locked against removal. */
struct image_use {
    int *layer_fds; /* lowest first */
    size_t layer_ct;
};

/* -ENOENT (REFUSED) when no name has this digest. */
int image_acquire(struct image_store *s, const char *digest, struct image_use **ret,
                  struct error *err);
void image_release(struct image_use *u);

/* Removes a directory or file and all in it, following no symbolic link and crossing no mount. 0,
 * also when there was none, or -errno. */
int image_rmtree(int dir_fd, const char *name);

#endif
