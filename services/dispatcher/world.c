#include "services/dispatcher/world.h"

#include "base/log.h"
#include "base/mem.h"
#include "services/dispatcher/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pairs and lists ---- */

static void pairs_clear(struct pairs *p)
{
    for (size_t i = 0; i < p->ct; i++) {
        free(p->list[i].key);
        free(p->list[i].value);
    }
    free(p->list);
    *p = (struct pairs){NULL, 0};
}

static void pairs_take(struct pairs *p, const redisReply *flat)
{
    pairs_clear(p);
    p->list = xcalloc(flat->elements / 2 + 1, sizeof(*p->list));
    for (size_t i = 0; i + 1 < flat->elements; i += 2)
        p->list[p->ct++] =
            (struct pair){xstrdup(reply_str(flat, i)), xstrdup(reply_str(flat, i + 1))};
}

const char *pairs_get(const struct pairs *p, const char *key)
{
    for (size_t i = 0; i < p->ct; i++)
        if (strcmp(p->list[i].key, key) == 0)
            return p->list[i].value;
    return NULL;
}

size_t world_split(char *text, char sep, char **out, size_t max)
{
    size_t ct = 0;

    while (*text && ct < max) {
        char *end = strchr(text, sep);
        if (end)
            *end = '\0';
        if (*text)
            out[ct++] = text;
        if (!end)
            break;
        text = end + 1;
    }
    return ct;
}

/* ---- vmms ---- */

static void vmm_free_view(struct vmm_view *v)
{
    free(v->name);
    if (v->label_ct > 0)
        free(v->labels[0]);
    pairs_clear(&v->images);
    pairs_clear(&v->wants);
    free(v);
}

static struct vmm_view *vmm_find(struct world *w, const char *name)
{
    size_t low = 0, high = w->vmm_ct;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(w->vmms[mid]->name, name);
        if (order == 0)
            return w->vmms[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    if (w->vmm_ct >= WORLD_VMMS_MAX)
        return NULL;
    w->vmms = xrealloc(w->vmms, (w->vmm_ct + 1) * sizeof(*w->vmms));
    memmove(w->vmms + low + 1, w->vmms + low, (w->vmm_ct - low) * sizeof(*w->vmms));
    w->vmm_ct++;
    w->vmms[low] = xcalloc(1, sizeof(**w->vmms));
    w->vmms[low]->name = xstrdup(name);
    return w->vmms[low];
}

static void vmm_take_labels(struct vmm_view *v, const char *text)
{
    if (v->label_ct > 0)
        free(v->labels[0]);
    v->label_ct = 0;
    while (*text == ',')
        text++;
    if (!*text)
        return;
    v->label_ct = world_split(xstrdup(text), ',', v->labels, ARRAY_SIZE(v->labels));
}

static void vmm_take(struct world *w, const redisReply *e, bool whole, int64_t now)
{
    struct vmm_view *v = vmm_find(w, reply_str(e, 0));
    const char *epoch = reply_str(e, 1), *beat = reply_str(e, 2), *state = reply_str(e, 3);

    if (!v) {
        log_event(LOG_ERROR_, "vmms.too_many", "most", LOG_NUM(WORLD_VMMS_MAX), NULL);
        return;
    }
    if (v->since == 0 || strcmp(v->epoch, epoch) != 0 || strcmp(v->beat, beat) != 0)
        v->since = now;
    snprintf(v->epoch, sizeof(v->epoch), "%s", epoch);
    snprintf(v->beat, sizeof(v->beat), "%s", beat);
    v->present = true;
    v->up = strcmp(state, "up") == 0;
    v->slots = (unsigned)reply_num(e, 4);
    v->drain = strcmp(reply_str(e, 5), "1") == 0;
    v->body = (unsigned)reply_num(e, 6);
    v->running = (unsigned)reply_num(e, 7);
    vmm_take_labels(v, reply_str(e, 8));
    v->solo = strcmp(reply_str(e, 9), "1") == 0;
    if (whole) {
        pairs_take(&v->images, reply_list(e, 10));
        pairs_take(&v->wants, reply_list(e, 11));
    }
}

static void vmms_take(struct world *w, const redisReply *list, bool whole, int64_t now)
{
    size_t kept = 0;

    for (size_t i = 0; i < w->vmm_ct; i++)
        w->vmms[i]->present = false;
    for (size_t i = 0; i < list->elements; i++)
        vmm_take(w, reply_list(list, i), whole, now);
    for (size_t i = 0; i < w->vmm_ct; i++) {
        if (w->vmms[i]->present)
            w->vmms[kept++] = w->vmms[i];
        else
            vmm_free_view(w->vmms[i]);
    }
    w->vmm_ct = kept;
}

static bool has_word(char *const *list, size_t ct, const char *word)
{
    for (size_t i = 0; i < ct; i++)
        if (strcmp(list[i], word) == 0)
            return true;
    return false;
}

bool vmm_has_image(const struct vmm_view *v, const struct place_text *t)
{
    if (t->digest_ct == 0)
        return pairs_get(&v->images, t->image) != NULL;
    for (size_t i = 0; i < v->images.ct; i++)
        if (has_word(t->digests, t->digest_ct, v->images.list[i].value))
            return true;
    return false;
}

bool vmm_fits(const struct vmm_view *v, const struct place_text *t)
{
    if (!v->up || v->drain || v->body < t->body)
        return false;
    for (size_t i = 0; i < t->label_ct; i++)
        if (!has_word(v->labels, v->label_ct, t->labels[i]))
            return false;
    return vmm_has_image(v, t);
}

/* ---- placements ---- */

static void text_free(struct place_text *t)
{
    free(t->text);
    free(t);
}

/* Where it is, or where it would be. */
static size_t text_at(const struct world *w, uint32_t number)
{
    size_t low = 0, high = w->text_ct;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (w->texts[mid]->number < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct place_text *text_find(const struct world *w, uint32_t number)
{
    size_t at = text_at(w, number);

    return at < w->text_ct && w->texts[at]->number == number ? w->texts[at] : NULL;
}

static void texts_clear(struct world *w)
{
    for (size_t i = 0; i < w->text_ct; i++)
        text_free(w->texts[i]);
    free(w->texts);
    w->texts = NULL;
    w->text_ct = 0;
}

static struct place_text *text_parse(uint32_t number, const char *text)
{
    struct place_text *t = xcalloc(1, sizeof(*t));
    char *line[5] = {NULL}, *at;

    t->number = number;
    t->text = at = xstrdup(text);
    for (size_t i = 0; i < ARRAY_SIZE(line) && at; i++) {
        line[i] = at;
        at = strchr(at, '\n');
        if (at)
            *at++ = '\0';
    }
    t->image = line[0];
    if (line[1])
        t->digest_ct = world_split(line[1], ',', t->digests, JOB_MAX_DIGESTS);
    if (line[2])
        t->label_ct = world_split(line[2], ',', t->labels, JOB_MAX_LABELS);
    t->alone = line[4] && strcmp(line[4], "alone") == 0;
    t->body = line[3] && *line[3] ? (unsigned)strtoul(line[3], NULL, 10) : 1;
    return t;
}

void world_learn(struct world *w, uint32_t number, const char *text)
{
    size_t at;

    if (text_find(w, number))
        return;
    if (w->text_ct >= WORLD_TEXTS_MAX) {
        for (size_t i = 0; i < w->place_ct; i++)
            w->places[i].text = NULL;
        texts_clear(w);
    }
    at = text_at(w, number);
    w->texts = xrealloc(w->texts, (w->text_ct + 1) * sizeof(*w->texts));
    memmove(w->texts + at + 1, w->texts + at, (w->text_ct - at) * sizeof(*w->texts));
    w->texts[at] = text_parse(number, text);
    w->text_ct++;
    for (size_t i = 0; i < w->place_ct; i++)
        if (w->places[i].number == number)
            w->places[i].text = w->texts[at];
}

size_t world_unknown(const struct world *w, uint32_t *out, size_t max)
{
    size_t ct = 0;

    for (size_t i = 0; i < w->place_ct && ct < max; i++)
        if (!w->places[i].text)
            out[ct++] = w->places[i].number;
    return ct;
}

static void places_clear(struct world *w)
{
    for (size_t i = 0; i < w->place_ct; i++)
        free(w->places[i].heads);
    free(w->places);
    w->places = NULL;
    w->place_ct = 0;
}

static void places_take(struct world *w, const redisReply *list)
{
    places_clear(w);
    w->places = xcalloc(list->elements + 1, sizeof(*w->places));
    for (size_t i = 0; i < list->elements; i++) {
        const redisReply *e = reply_list(list, i);
        struct place *p = &w->places[w->place_ct++];

        p->number = (uint32_t)reply_num(e, 0);
        p->length = (uint64_t)reply_num(e, 1);
        p->text = text_find(w, p->number);
        p->heads = xcalloc(e->elements / 2 + 1, sizeof(*p->heads));
        for (size_t k = 2; k + 1 < e->elements; k += 2)
            p->heads[p->head_ct++].score = strtoull(reply_str(e, k + 1), NULL, 10);
    }
}

/* ---- the whole ---- */

void world_init(struct world *w)
{
    *w = (struct world){NULL};
}

void world_done(struct world *w)
{
    world_forget(w);
}

void world_forget(struct world *w)
{
    for (size_t i = 0; i < w->vmm_ct; i++)
        vmm_free_view(w->vmms[i]);
    free(w->vmms);
    places_clear(w);
    texts_clear(w);
    pairs_clear(&w->wishes);
    pairs_clear(&w->used);
    *w = (struct world){NULL};
}

void world_gap(struct world *w, int64_t now)
{
    for (size_t i = 0; i < w->vmm_ct; i++)
        w->vmms[i]->since = now;
    for (size_t i = 0; i < w->text_ct; i++)
        if (w->texts[i]->gone_since)
            w->texts[i]->gone_since = now;
}

void world_take(struct world *w, const redisReply *r, bool whole, int64_t now)
{
    const redisReply *meta = reply_list(r, 1);

    if (strcmp(w->run_id, reply_str(meta, 0)) != 0)
        texts_clear(w); /* an older Redis may have given the same numbers to others */
    snprintf(w->run_id, sizeof(w->run_id), "%s", reply_str(meta, 0));
    w->id_next = reply_num(meta, 2);
    w->id_limit = reply_num(meta, 3);
    w->due = reply_num(r, 2);
    vmms_take(w, reply_list(r, 3), whole, now);
    places_take(w, reply_list(r, 4));
    if (whole) {
        pairs_take(&w->wishes, reply_list(r, 5));
        pairs_take(&w->used, reply_list(r, 6));
    }
}
