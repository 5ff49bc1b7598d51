#ifndef AUTODRIVER_UNTAR_H
#define AUTODRIVER_UNTAR_H

/* A streaming reader of tar: ustar, GNU long names ('L') and the `path` and `size` records of pax,
 * which is what libarchive, GNU tar and bsdtar write for regular files and directories. Nothing
 * else is let through: no links, devices, sparse files; no absolute names, no "..", no control
 * characters. It touches no file system itself; what it lets through goes to a sink.
 *
 * Feed it pieces of any size; what it tells the sink does not depend on how the stream was cut.
 * After an error it must only be thrown away. */

#include "util.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNTAR_BLOCK         512
#define UNTAR_NAME_MAX      255  /* bytes of one component */
#define UNTAR_PATH_MAX      4096 /* bytes of a whole name, with its NUL */
#define UNTAR_DEPTH_MAX     64   /* components */
#define UNTAR_ENTRIES_MAX   200000
#define UNTAR_SIZE_MAX      (1ULL << 40) /* bytes of one file; the disk ends before */
#define UNTAR_EXTENSION_MAX (64 * 1024)  /* bytes of one 'L', 'x' or 'g' block */

/* Each returns 0, or -1 with the reason in *why. `path` is relative, without empty, "." or ".."
 * components, and valid during the call. A file is file, data..., file_end. `mode` is within 0777.
 */
struct untar_sink {
    void *arg;
    int (*dir)(void *arg, const char *path, unsigned mode, struct why *why);
    int (*file)(void *arg, const char *path, unsigned mode, uint64_t size, struct why *why);
    int (*data)(void *arg, const void *data, size_t len, struct why *why);
    int (*file_end)(void *arg, struct why *why);
};

enum untar_state {
    UNTAR_HEAD,      /* collects a header block */
    UNTAR_FILE,      /* passes `left` bytes to the sink */
    UNTAR_EXTENSION, /* collects `left` bytes of a long name or of pax records */
    UNTAR_SKIP,      /* drops `left` bytes: padding, global headers */
    UNTAR_END,       /* saw the end mark; what follows is padding */
};

struct untar {
    struct untar_sink sink;
    enum untar_state state;
    uint64_t left;
    unsigned padding; /* bytes after the present data up to a whole block */
    unsigned entry_ct;
    uint8_t block[UNTAR_BLOCK];
    size_t block_len;
    char extension_type;
    char *extension; /* UNTAR_EXTENSION_MAX + 1 bytes once one was met */
    size_t extension_len;
    char path[UNTAR_PATH_MAX]; /* from an extension, for the next entry; empty: none */
    bool has_size;             /* `size` from an extension, for the next entry */
    uint64_t size;
};

void untar_init(struct untar *t, const struct untar_sink *sink);
void untar_done(struct untar *t);

/* 0, or -1 with the reason in *why. */
int untar_feed(struct untar *t, const void *data, size_t len, struct why *why);

/* The stream is over: 0 when it was whole. A missing end mark is forgiven between entries, since
 * the pipe says itself where the stream ends. */
int untar_finish(const struct untar *t, struct why *why);

#endif
