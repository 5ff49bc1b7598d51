#ifndef MILONGA_VMM_COPYIN_H
#define MILONGA_VMM_COPYIN_H

/* A job's files on their way into a machine: a tar stream (POSIX ustar, GNU long names) in T
 * frames, read from the store's descriptors as it goes, never touching a path that a job could
 * write. What begins with "#!" or is an ELF program gets mode 0755, all else 0644; the names of the
 * job's account are the autodriver's business. Tango gave every file the 0600 of its upload, so
 * this takes no right away from any job. */

#include "base/err.h"
#include "pipe.h"
#include "wire/job.h"
#include "wire/store.h"

#define TAR_BLOCK        512
#define TAR_LONGNAME_MAX 1024

/* Opens each file once, before there is a machine with a lease: what the store must fetch from
 * elsewhere is near when copyin_send() wants it, and what is missing is known. */
int copyin_prefetch(struct store *store, const struct job *job, struct error *err);

/* T frames and the final E. */
int copyin_send(struct pipe *p, struct store *store, const struct job *job, int64_t deadline,
                struct error *err);

/* One member's header block or blocks (a long name takes three). Returns the number of bytes
 * written to out, or -ENAMETOOLONG, -EFBIG. */
int copyin_tar_header(uint8_t out[4 * TAR_BLOCK], const char *name, uint64_t size, unsigned mode,
                      int64_t mtime_s);

#endif
