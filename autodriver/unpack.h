#ifndef AUTODRIVER_UNPACK_H
#define AUTODRIVER_UNPACK_H

/* The sink of an untar that makes files: below one directory, given as a descriptor, for one owner.
 * No step follows a symbolic link or opens a file that is there already, so that nothing that
 * anyone may have put into the directory sends a byte elsewhere. Files get the time of unpacking,
 * as a copy would: make decides by times, and the sender's clock is not ours. */

#include "untar.h"

#include <sys/types.h>

struct unpack {
    int root_fd; /* borrowed */
    uid_t uid;
    gid_t gid;
    int file_fd; /* the file being written, or -1 */
    unsigned file_mode;
};

void unpack_init(struct unpack *u, int root_fd, uid_t uid, gid_t gid, struct untar_sink *ret_sink);
void unpack_done(struct unpack *u);

#endif
