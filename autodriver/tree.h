#ifndef AUTODRIVER_TREE_H
#define AUTODRIVER_TREE_H

/* Work on trees that a job could write, as root: by descriptor, one component at a time, never
 * through a symbolic link. No process of the job may be alive during it. Depth is no way out: what
 * is nested too deep for our descriptors is first moved up to the top of the walk. */

#include <sys/types.h>

/* Removes `name` in `dir_fd` whatever it is. 0, or -errno of the first thing that could not be
 * removed (it goes on with the rest). */
int tree_remove(int dir_fd, const char *name);

/* Removes what belongs to `uid` below `dir_fd`, the directory itself excepted. Directories of
 * others are searched, too. 0 or -errno as above. */
int tree_remove_owned(int dir_fd, uid_t uid);

/* Gives everything below `dir_fd` and itself to the owner. Files with several names that are not
 * `from`'s are refused with -EPERM: one of the names may be outside. */
int tree_give(int dir_fd, uid_t from, uid_t uid, gid_t gid);

/* Moves `name` from one directory to another, like mv: a rename where that can be, else (other file
 * systems; the lower layer of an overlay) entry by entry, with the rule of tree_give() on names. 0
 * or -errno. */
int tree_move(int from_fd, const char *name, int to_fd, uid_t from);

#endif
