#ifndef AUTODRIVER_PLACE_H
#define AUTODRIVER_PLACE_H

/* Where a job lives: HOME, and the directory below it that its files are unpacked into. HOME is the
 * account's where that can be used, else a fresh directory in a temporary place with the same
 * layout. */

#include "util.h"

struct account;

struct place {
    char home[300];
    int dir_fd; /* the job's directory, 0700 root until place_give() */
};

/* 0, or -1 with the reason. What was at HOME/dir before is removed. */
int place_make(struct place *p, const struct account *account, const char *dir, struct why *why);

/* Hands the directory to the account, once it is filled. */
int place_give(struct place *p, const struct account *account, struct why *why);

void place_done(struct place *p);

#endif
