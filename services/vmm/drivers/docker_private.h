#ifndef MILONGA_DOCKER_PRIVATE_H
#define MILONGA_DOCKER_PRIVATE_H

/* What docker.c (machines), docker_image.c (images), docker_disk.c (bounds on the disk),
 * docker_self.c (a vmm in a container), docker_layout.c (where the autodriver lies), docker_put.c
 * (how it gets to an engine elsewhere), docker_host.c and docker_hosts.c (which drive such ones)
 * share; nobody else includes it but their tests. */

#include "../machine.h"
#include "docker_http.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

struct backend {
    const struct config *cfg;
    struct engine *engine;
    char *url;          /* of it */
    char identity[512]; /* what it tells of itself, by the last docker_check(); "": not enough */
    bool elsewhere;     /* on a machine that is not this one: no path of ours is there */
    struct docker_put *put; /* what was put there; NULL on this one */
    char *deployment_label; /* "milonga.deployment=D" */
    char *vmm_label;
    char *filter;                /* of both, as a query */
    char *bind;                  /* of the folder with the autodriver, as the engine sees it */
    int layout_fd;               /* that folder, in use while it is open */
    atomic_bool no_quota;        /* the engine's storage cannot bound a container's disk, so */
    struct disk_watch *disk;     /* we do */
    pthread_mutex_t import_lock; /* imports look at what was there before, so one at a time */
    pthread_mutex_t before_lock;
    const json_t *before; /* with before_lock; ids that were there before the import; NULL: none */
};

/* Says nothing to the engine yet; docker_close() it. */
int docker_new(const struct config *cfg, const char *url, struct backend **ret, struct error *err);
void docker_close(struct backend *b);
/* That it answers, and has every layer that a machine counts on. */
int docker_check(struct backend *b, struct error *err);
/* Removes every container of this deployment and vmm. */
int docker_sweep(struct backend *b, struct error *err);
/* Of struct driver, `destroy`: fails when the container is not known to be gone. */
int docker_end(struct machine *m, int64_t deadline, struct error *err);
/* Removes one by its id; an unknown one is no error. */
int docker_remove(struct backend *b, const char *id, int64_t deadline, struct error *err);

/* An engine elsewhere has no folder of ours to mount. The autodriver goes there through the archive
 * API, into a volume named by its digest and by who we are, which machines have read-only. These
 * containers are no machines: */
#define DOCKER_PUT_NAME   "milonga-put-"
#define DOCKER_PROBE_NAME "milonga-probe-"
#define DOCKER_PUT_IMAGE  "milonga-autodriver"
/* Reads the program, and sets b->bind to what will hold it. */
int docker_put_new(struct backend *b, struct error *err);
void docker_put_free(struct docker_put *p);
/* Sees to it that it is there, byte for byte, and that a machine can be made with it: the proof
 * that the engine works. Removes the volumes of our other builds. Needs no image of the engine's.
 */
int docker_put(struct backend *b, int stop_fd, struct error *err);

int docker_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err);
/* Conflicts (a container uses it) are -EBUSY. */
int docker_remove_image(struct backend *b, const char *name, struct error *err);
int docker_import(struct backend *b, const char *path, const char *name, struct error *err);

/* docker_volume_path as the engine sees it: docker_host_volume_path where that differs, else what
 * is behind our own mounts when this is a container of that engine. *ret is the caller's, also on
 * an error. */
int docker_engine_path(struct backend *b, char **ret, struct error *err);
/* Its parts: the id of the container whose /proc/self/mountinfo this is, false when it is none's;
 * and where `path` lies by an engine's description of a container, NULL when on no mount. */
bool docker_own_id(const char *mountinfo, char ret_id[65]);
char *docker_behind_mounts(const json_t *container, const char *path);

/* Puts the autodriver where the engine can mount it from: a folder of docker_volume_path named by
 * the program's digest, so that a newer vmm does not change it under the machines of an older one;
 * those of other builds that no vmm uses are removed. *ret_folder, its name, is the caller's to
 * free, *ret_fd to close when it is used no more. */
int docker_lay_out(const struct config *cfg, char **ret_folder, int *ret_fd, struct error *err);

/* Machines whose disk is bounded by looking, named by the container's id; unknown ids are no error.
 * Any thread. */
struct disk_watch *disk_watch_new(struct engine *engine);
void disk_watch_free(struct disk_watch *w);
void disk_watch_add(struct disk_watch *w, const char *id, uint64_t limit);
/* It has a job from now on. */
void disk_watch_activate(struct disk_watch *w, const char *id);
/* Was it found over its limit, and told to end? */
bool disk_watch_over(struct disk_watch *w, const char *id);
void disk_watch_remove(struct disk_watch *w, const char *id);

#endif
