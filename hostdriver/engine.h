#ifndef HOSTDRIVER_ENGINE_H
#define HOSTDRIVER_ENGINE_H

/* Machines as containers of the host's own engine, through its client (docker or podman): as the
 * vmm's docker driver makes them, without a socket that crosses the network. */

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct container {
    const char *engine; /* "docker" or "podman" */
    const char *dir;    /* DIR: a label on all containers of it */
    const char *name;
    const char *image;                     /* id */
    const char *autodriver;                /* path on this host */
    uint32_t cores_milli, memory_mb, pids; /* 0: none */
    bool network;
};

/* Starts the engine's client with our stdin and stdout. *ret_pid is our child. */
int engine_start(const struct container *c, pid_t *ret_pid, struct error *err);
/* True when it ended for its memory limit. Before engine_remove. */
bool engine_oom(const struct container *c);
/* An unknown name is no error. */
int engine_remove(const char *engine, const char *name, struct error *err);
/* Names of all containers that carry DIR's label, a line each; the caller's to free. */
int engine_names(const char *engine, const char *dir, char **ret, struct error *err);
/* "name id" of each name of each image, a line each. */
int engine_images(const char *engine, char **ret, struct error *err);

#endif
