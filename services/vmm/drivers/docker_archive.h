#ifndef MILONGA_DOCKER_ARCHIVE_H
#define MILONGA_DOCKER_ARCHIVE_H

/* The archive of `docker save` says how its image is to be called, and an engine that loads it
 * takes those names from whatever had them. Whoever may send an archive would so replace the images
 * of others. What goes to an engine is therefore a copy without names. */

#include "base/err.h"

/* Copies the archive at `path` (compressed or not) to a file without a name in the directory `dir`.
 * 0: *ret_fd is the caller's, at its begin. ERR_REFUSED: it is no such archive, or holds more than
 * one image; ERR_TEMPORARY: it could not be read or written. */
int docker_archive_unnamed(const char *path, const char *dir, int *ret_fd, struct error *err);

#endif
