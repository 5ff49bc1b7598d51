#ifndef AUTODRIVER_ACCOUNT_H
#define AUTODRIVER_ACCOUNT_H

/* Whom a job runs as. Reads /etc/passwd and /etc/group itself: the program is static and runs in
 * images whose libc, and so whose NSS modules, it knows nothing about. */

#include <sys/types.h>

#define ACCOUNT_GROUPS_MAX 64

struct account {
    char name[64];
    char home[256]; /* empty when the image has no such account */
    uid_t uid;
    gid_t gid;
    gid_t groups[ACCOUNT_GROUPS_MAX]; /* supplementary, `gid` among them */
    int group_ct;
};

/* Fills *ret from the files below `etc` ("/etc", or another directory in tests). Returns 0,
 * -ENOENT when there is no such account, -EINVAL when its line makes no sense. Uid 0 is returned as
 * it is: the caller refuses it. */
int account_find(const char *etc, const char *name, struct account *ret);

/* The account of an image that has none: uid = gid = `id`, no groups but that, no home. */
void account_fixed(const char *name, uid_t id, struct account *ret);

#endif
