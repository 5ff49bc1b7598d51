/* Labs and their files. */

#include "services/api/v1.h"

#include "base/mem.h"
#include "base/name.h"
#include "services/api/send.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LABS_MAX  "1000"
#define FILES_MAX "5000"

static void failed(struct call *c, const struct core_answer *a)
{
    problem_core(c, a, v1_what("lab", c->param[0]));
}

static void file_failed(struct call *c, const struct core_answer *a)
{
    char what[700];

    snprintf(what, sizeof(what), "file %.300s in lab %.300s", c->param[1], c->param[0]);
    problem_core(c, a, what);
}

/* A name that is none is that of nothing (GET, DELETE), or one that can not be made (PUT). */
static bool name_ok(struct call *c, const char *what, unsigned i,
                    const char *(*check)(const char *s, size_t len))
{
    const char *why = check(c->param[i], c->param_len[i]);

    if (!why)
        return true;
    if (c->method == ROUTE_PUT)
        problem(c, 422, "invalid", "The %s's name %s", what, why);
    else
        problem(c, 404, "not-found", "There is no such %s: its name %s", what, why);
    return false;
}

static bool lab_ok(struct call *c)
{
    return name_ok(c, "lab", 0, name_check_lab);
}

static bool file_ok(struct call *c)
{
    return lab_ok(c) && name_ok(c, "file", 1, name_check_file);
}

static void render_file(struct buf *b, const char *name, size_t name_len, const struct core_file *f)
{
    v1_comma(b);
    buf_appends(b, "{\"name\": ");
    out_str(b, name, name_len);
    buf_printf(b, ", \"sha256\": \"%s\", \"md5\": \"%s\", \"size\": %" PRIu64 "}", f->sha256,
               f->md5, f->size);
}

/* ---- Labs ---- */

static void labs_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{\"labs\": [");
    for (size_t i = 2; i < a->tree->elements; i++) {
        v1_comma(&b);
        out_str(&b, core_text(a->tree, i), core_text_len(a->tree, i));
    }
    buf_appends(&b, "]");
    v1_bool(&b, "truncated", *core_text(a->tree, 1) == '1');
    buf_appends(&b, "}");
    v1_json(c, 200, &b);
}

void v1_labs(struct call *c)
{
    const char *argv[] = {c->tenant, LABS_MAX};

    core_ask(c->loop->core, ASK_LABS, 2, argv, labs_came, c);
}

static void lab_came(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);
    int status = c->state ? 201 : 200;

    if (a->status != CORE_OK) {
        failed(c, a);
        return;
    }
    buf_appends(&b, "{");
    v1_text(&b, "name", c->param[0]);
    v1_int(&b, "created_ms", core_number(a->tree, 1));
    buf_appends(&b, ", \"files\": [");
    for (size_t i = 3; i + 1 < a->tree->elements; i += 2) {
        struct core_file f;

        if (core_text_len(a->tree, i) > 0 &&
            sscanf(core_text(a->tree, i + 1), "%64s %32s %" SCNu64, f.sha256, f.md5, &f.size) == 3)
            render_file(&b, core_text(a->tree, i), core_text_len(a->tree, i), &f);
    }
    buf_appends(&b, "]");
    v1_bool(&b, "truncated", *core_text(a->tree, 2) == '1');
    buf_appends(&b, "}");
    v1_json(c, status, &b);
}

static void ask_lab(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0], FILES_MAX};

    core_ask(c->loop->core, ASK_LAB, 3, argv, lab_came, c);
}

void v1_lab_get(struct call *c)
{
    if (lab_ok(c))
        ask_lab(c);
}

static void lab_made(void *arg, const struct core_answer *a)
{
    static char made;
    struct call *c = arg;

    if (a->status == CORE_FULL) {
        problem_later(c, (a->slots + 999) / 1000, "labs-full", "%s", a->why);
        return;
    }
    if (a->status != CORE_OK || !c->req) {
        failed(c, a);
        return;
    }
    if (a->made)
        c->state = &made;
    ask_lab(c);
}

void v1_lab_put(struct call *c)
{
    if (lab_ok(c))
        core_open(c->loop->core, c->tenant, c->param[0], lab_made, c);
}

static void dropped(void *arg, const struct core_answer *a)
{
    struct call *c = arg;

    if (a->status == CORE_OK)
        reply_bytes(c, 204, NULL, "", "", 0);
    else if (strstr(c->route->pattern, "/files/"))
        file_failed(c, a);
    else
        failed(c, a);
}

void v1_lab_delete(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0]};

    if (lab_ok(c))
        core_ask(c->loop->core, ASK_LAB_DROP, 2, argv, dropped, c);
}

/* ---- Files ---- */

void v1_file_delete(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0], c->param[1]};

    if (file_ok(c))
        core_ask(c->loop->core, ASK_FILE_DROP, 3, argv, dropped, c);
}

static void file_found(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct core_file f;

    if (a->status == CORE_OK &&
        sscanf(core_text(a->tree, 2), "%64s %32s %" SCNu64, f.sha256, f.md5, &f.size) == 3)
        send_stored_part(c, f.sha256, 0, UINT64_MAX, file_failed);
    else if (a->status == CORE_OK)
        file_failed(c, &(struct core_answer){.status = CORE_NOT_FOUND});
    else
        file_failed(c, a);
}

void v1_file_get(struct call *c)
{
    const char *argv[] = {c->tenant, c->param[0], c->param[1]};

    if (file_ok(c))
        core_ask(c->loop->core, ASK_FILE, 3, argv, file_found, c);
}

static void file_put(void *arg, const struct core_answer *a)
{
    struct call *c = arg;
    struct buf b = BUF_INIT(SIZE_MAX);

    if (a->status == CORE_FULL) {
        problem(c, 409, "lab-full", "The lab holds too many files; remove some");
    } else if (a->status == CORE_NO_LAB) {
        failed(c, a);
    } else if ((a->status == CORE_OK || a->status == CORE_SAME) && a->file_ct == 1 && c->req) {
        render_file(&b, c->param[1], c->param_len[1], &a->files[0]);
        v1_json(c, a->status == CORE_OK ? 201 : 200, &b);
    } else {
        file_failed(c, a);
    }
}

void v1_file_put(struct call *c)
{
    if (file_ok(c))
        core_put(c->loop->core, c->tenant, c->param[0], c->param[1], c->req->entity.base,
                 c->req->entity.len, file_put, c);
}
