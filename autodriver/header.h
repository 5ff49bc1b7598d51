#ifndef AUTODRIVER_HEADER_H
#define AUTODRIVER_HEADER_H

/* The header of a job, from the frame that carries it (docs/protocol.md, "The pipe"), and the
 * environment that a job finds. */

#include "spawn.h"
#include "util.h"

#include <stdbool.h>

#define HEADER_WORDS_MAX 64
#define HEADER_TEXT_MAX  16384

struct header {
    uint64_t timeout_ms;
    uint64_t lease_ms;
    uint64_t output_bytes;
    struct job_limits limits;
    char user[64];
    char dir[256];
    uid_t uid; /* where the image has no such user */
    mode_t umask;
    char tz[128];
    char path[1024];
    char argv_text[HEADER_TEXT_MAX]; /* cut into words, which argv points into */
    char *argv[HEADER_WORDS_MAX + 1];
    char env_text[HEADER_TEXT_MAX];
    char *env[HEADER_WORDS_MAX + 1]; /* NAME=VALUE, beyond what every job finds */
};

#define JOB_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* 0, or -1 with the reason. Unknown keys are skipped. */
int header_parse(struct header *h, const char *text, size_t len, struct why *why);

/* The environment of a job; env_done() frees what env_build() made. Never NULL. */
char **env_build(const struct header *h, const char *user, const char *home);
void env_done(char **env);

#endif
