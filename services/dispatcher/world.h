#ifndef MILONGA_DISPATCHER_WORLD_H
#define MILONGA_DISPATCHER_WORLD_H

/* What the duty thread sees of Redis: vmms, and placements with a queue. Each observation replaces
 * it; what stays from one to the next is what Redis can not tell: since when, by our own monotonic
 * clock, something has been as it is. All of it may be lost at any time and is built again. One
 * thread. */

#include "wire/job.h"

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORLD_HEADS_MAX  32   /* of each queue that an observation brings */
#define WORLD_PLACES_MAX 4096 /* placements with a queue that an observation brings */
#define WORLD_TEXTS_MAX  8192 /* placements that are remembered */
#define WORLD_VMMS_MAX   4096

struct pair { /* image name and digest, or image name and number */
    char *key;
    char *value;
};
struct pairs {
    struct pair *list;
    size_t ct;
};

struct vmm_view {
    char *name;
    char epoch[24], beat[24];
    bool up, drain;
    bool solo; /* what runs there runs alone: nothing may join it */
    unsigned body;
    unsigned slots, running;
    char *labels[JOB_MAX_LABELS * 4];
    size_t label_ct;
    struct pairs images, wants; /* as of the last whole observation */
    int64_t since;              /* mono: epoch and beat are as they are */
    bool present;
};

/* What a placement asks for; never changes under its number. */
struct place_text {
    uint32_t number;
    char *text; /* image, NUL, ... : cut into the following */
    char *image;
    char *digests[JOB_MAX_DIGESTS];
    size_t digest_ct;
    char *labels[JOB_MAX_LABELS];
    size_t label_ct;
    unsigned body;      /* body version needed */
    bool alone;         /* its jobs want a vmm for themselves */
    int64_t gone_since; /* mono: no live vmm has the image; 0 when one has */
};

struct head {
    uint64_t score;
};

struct place {
    struct place_text *text; /* NULL while it is not known */
    uint32_t number;
    uint64_t length;
    struct head *heads; /* in order */
    size_t head_ct;
};

struct world {
    struct vmm_view **vmms; /* by name */
    size_t vmm_ct;
    struct place *places;
    size_t place_ct;
    struct place_text **texts; /* by number */
    size_t text_ct;
    struct pairs wishes, used; /* as of the last whole observation */
    char run_id[48];
    int64_t id_next, id_limit;
    int64_t due; /* wall ms of the first delayed job; 0 none */
};

void world_init(struct world *w);
void world_done(struct world *w);

/* Takes an answer of the script observe in. `now` is monotonic. */
void world_take(struct world *w, const redisReply *r, bool whole, int64_t now);

/* Our view had a gap: nothing was "unchanged since". */
void world_gap(struct world *w, int64_t now);
/* Forgets all that is bound to this Redis: it was started anew, perhaps with other placements. */
void world_forget(struct world *w);

/* Numbers of placements whose text is not known yet, at most max; how many. */
size_t world_unknown(const struct world *w, uint32_t *out, size_t max);
/* The text of a placement: image, newline, digests (commas), newline, labels (commas), and perhaps
 * newline, body version (or nothing), and perhaps newline, "alone". */
void world_learn(struct world *w, uint32_t number, const char *text);

/* "a,b" cut in place into at most max pieces; empty ones are left out. */
size_t world_split(char *text, char sep, char **out, size_t max);
const char *pairs_get(const struct pairs *p, const char *key);

bool vmm_has_image(const struct vmm_view *v, const struct place_text *t);
/* May jobs of this placement run there, room aside? */
bool vmm_fits(const struct vmm_view *v, const struct place_text *t);
static inline unsigned vmm_free(const struct vmm_view *v)
{
    return !v->solo && v->running < v->slots ? v->slots - v->running : 0;
}

#endif
