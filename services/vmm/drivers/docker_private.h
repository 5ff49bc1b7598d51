#ifndef MILONGA_DOCKER_PRIVATE_H
#define MILONGA_DOCKER_PRIVATE_H

/* What docker.c (machines) and docker_image.c (images) share; nobody else includes it. */

#include "../machine.h"
#include "docker_http.h"

#include <pthread.h>
#include <stdatomic.h>

struct backend {
    const struct config *cfg;
    struct engine *engine;
    char *deployment_label; /* "milonga.deployment=D" */
    char *vmm_label;
    char *filter;                /* of both, as a query */
    char *bind;                  /* of the folder with the autodriver, as the engine sees it */
    atomic_bool no_quota;        /* the engine's storage cannot bound a container's disk */
    pthread_mutex_t import_lock; /* imports look at what was there before, so one at a time */
};

int docker_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err);
int docker_import(struct backend *b, const char *path, const char *name, struct error *err);

#endif
