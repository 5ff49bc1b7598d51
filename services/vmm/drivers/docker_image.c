#include "docker_private.h"

#include "base/clock.h"
#include "base/image_name.h"
#include "base/mem.h"
#include "base/name.h"
#include "services/vmm/drivers/docker_archive.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* Images of an engine: under which names a job may ask for them, and taking one in. */

#define ASK_MS    30000
#define IMPORT_MS (15 * 60 * 1000)

static const char latest[] = ":latest";

static int64_t soon(int64_t ms)
{
    return clock_mono_ms() + ms;
}

/* ---- names ---- */

static bool no_tag(const char *tag)
{
    return !tag || strstr(tag, "<none>");
}

/* Enters name -> id in `names`; a name of two images becomes null. */
static void enter(json_t *names, const char *name, size_t len, const char *id)
{
    cleanup_free char *key = xstrndup(name, len);
    const json_t *there = json_object_get(names, key);

    if (name_check_image(key, len))
        return; /* nothing that a job could say */
    if (!there)
        json_object_set_new(names, key, json_string(id));
    else if (!json_is_string(there) || strcmp(json_string_value(there), id) != 0)
        json_object_set_new(names, key, json_null());
}

/* Under the name as it stands, and, when it is the latest, without saying so. */
static void enter_both(json_t *names, const char *name, const char *id)
{
    size_t len = strlen(name), tail = strlen(latest);

    enter(names, name, len, id);
    if (len > tail && strcmp(name + len - tail, latest) == 0)
        enter(names, name, len - tail, id);
}

/* What an engine may put before a name that was given without it: Podman spells its names out. */
static const char *const homes[] = {"localhost/", "docker.io/library/", "docker.io/"};

/* The names that a job may say for `text` as well, unless they mean two images. */
static void enter_brief(json_t *names, const char *text, const char *id)
{
    const char *slash = strrchr(text, '/');

    /* Tango knew images by what is behind the last '/'. */
    if (slash)
        enter_both(names, slash + 1, id);
    for (size_t i = 0; i < ARRAY_SIZE(homes); i++)
        if (strncmp(text, homes[i], strlen(homes[i])) == 0 && strchr(text + strlen(homes[i]), '/'))
            enter_both(names, text + strlen(homes[i]), id);
}

/* What carries the autodriver to an engine elsewhere is for no job. */
static bool is_own(const char *tag)
{
    const char *slash = strrchr(tag, '/');
    const char *name = slash ? slash + 1 : tag;

    return strncmp(name, DOCKER_PUT_IMAGE ":", strlen(DOCKER_PUT_IMAGE ":")) == 0;
}

static bool is_coming(struct backend *b, const char *id)
{
    pthread_mutex_lock(&b->before_lock);
    bool coming = b->before && !json_object_get(b->before, id);
    pthread_mutex_unlock(&b->before_lock);
    return coming;
}

int docker_images(struct backend *b, void (*each)(void *arg, const struct image_entry *e),
                  void *arg, struct error *err)
{
    json_t *doc = NULL, *value;
    const json_t *image, *tag;
    const char *name;
    size_t i, k;

    int rc = engine_get(b->engine, "/images/json", soon(ASK_MS), -1, &doc, err);
    if (rc < 0)
        return rc;
    json_t *full = json_object(), *brief = json_object();
    json_array_foreach(doc, i, image)
    {
        const char *id = json_string_value(json_object_get(image, "Id"));
        size_t tagged = 0;
        if (!id)
            continue;
        json_array_foreach(json_object_get(image, "RepoTags"), k, tag)
        {
            const char *text = json_string_value(tag);
            if (no_tag(text))
                continue;
            tagged++;
            if (is_own(text))
                continue;
            enter_both(full, text, id);
            if (!image_name_is_reserved(text)) /* of those only the whole name is one */
                enter_brief(brief, text, id);
        }
        if (tagged == 0 && !is_coming(b, id))
            enter(full, id, strlen(id), id);
    }
    json_object_foreach(full, name, value)
    {
        if (json_is_string(value))
            each(arg, &(struct image_entry){name, json_string_value(value)});
    }
    json_object_foreach(brief, name, value)
    {
        if (json_is_string(value) && !json_object_get(full, name))
            each(arg, &(struct image_entry){name, json_string_value(value)});
    }
    json_decref(full);
    json_decref(brief);
    json_decref(doc);
    return 0;
}

/* ---- taking in ---- */

/* An import changes nothing but what it brings: tags that were there before point where they
 * pointed. */
struct import {
    struct backend *b;
    const char *name; /* with its tag */
    json_t *before;   /* tag -> id, and id -> id */
    json_t *refs;     /* what the engine says it loaded -> id */
    const char *id;   /* the one image */
};

/* From here on images that were not there before have no name until their import has given them
 * one: by its id, everybody could say one that is somebody's own. NULL: no import any more. */
static void set_before(struct backend *b, const json_t *before)
{
    pthread_mutex_lock(&b->before_lock);
    b->before = before;
    pthread_mutex_unlock(&b->before_lock);
}

static int snapshot(struct import *im, struct error *err)
{
    json_t *doc = NULL;
    const json_t *image, *tag;
    size_t i, k;

    int rc = engine_get(im->b->engine, "/images/json?all=1", soon(ASK_MS), -1, &doc, err);
    if (rc < 0)
        return rc;
    json_array_foreach(doc, i, image)
    {
        json_t *id = json_object_get(image, "Id");
        if (!json_is_string(id))
            continue;
        json_object_set(im->before, json_string_value(id), id);
        json_array_foreach(json_object_get(image, "RepoTags"), k, tag)
        {
            if (!no_tag(json_string_value(tag)))
                json_object_set(im->before, json_string_value(tag), id);
        }
    }
    json_decref(doc);
    set_before(im->b, im->before);
    return 0;
}

/* "Loaded image: a:1", "Loaded image ID: sha256:...", and Podman's "Loaded image: a:1,b:2". */
static void note_loaded(struct import *im, const char *line)
{
    cleanup_free char *text = xstrdup(line);
    char *save = NULL;

    if (strncmp(text, "Loaded image", 12) != 0 || !strstr(text, ": "))
        return;
    for (char *ref = strtok_r(strstr(text, ": ") + 2, ", \r\n", &save); ref;
         ref = strtok_r(NULL, ", \r\n", &save))
        json_object_set_new(im->refs, ref, json_null());
}

/* The answer to a load is one JSON text after another. */
static int read_answer(struct import *im, const struct buf *body, struct error *err)
{
    size_t at = 0;

    while (at < body->len) {
        json_error_t why;
        json_t *doc = json_loadb(body->data + at, body->len - at, JSON_DISABLE_EOF_CHECK, &why);
        if (!doc)
            break; /* blanks at the end */
        at += (size_t)why.position;
        const char *error = json_string_value(json_object_get(doc, "error"));
        const char *stream = json_string_value(json_object_get(doc, "stream"));
        int rc = error
                     ? err_set(err, ERR_REFUSED, EINVAL, "engine refuses the image: %.300s", error)
                     : 0;
        if (stream)
            note_loaded(im, stream);
        json_decref(doc);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int load(struct import *im, const char *path, struct error *err)
{
    cleanup_close int fd = -1;
    struct stat st;

    int rc = docker_archive_unnamed(path, im->b->cfg->data_dir, &fd, err);
    if (rc < 0)
        return rc;
    if (fstat(fd, &st) < 0)
        return err_set_errno(err, ERR_TEMPORARY, errno, "%s", path);
    struct engine_upload upload = {.fd = fd, .len = st.st_size};
    struct engine_call c = {.method = "POST",
                            .path = "/images/load?quiet=1",
                            .upload = &upload,
                            .deadline = soon(IMPORT_MS),
                            .cancel_fd = -1};
    struct engine_reply r;
    rc = engine_call(im->b->engine, &c, &r, err);
    if (rc < 0)
        return rc;
    if (r.status == 200) {
        rc = read_answer(im, &r.body, err);
    } else {
        /* A 500 as a rule: what an engine cannot read it takes for its own trouble. */
        rc = engine_refusal(&r, err, "load of the image");
        if (err)
            err->class = ERR_REFUSED;
    }
    engine_reply_done(&r);
    return rc;
}

/* Finds the id behind each loaded name; one image is wanted. */
static int settle(struct import *im, struct error *err)
{
    json_t *ids = json_object(), *value;
    const char *ref;
    void *next;
    int rc = 0;

    json_object_foreach_safe(im->refs, next, ref, value)
    {
        cleanup_free char *path = xasprintf("/images/%s/json", ref);
        json_t *doc = NULL;
        rc = engine_get(im->b->engine, path, soon(ASK_MS), -1, &doc, err);
        if (rc < 0)
            break;
        json_t *id = json_object_get(doc, "Id");
        json_object_set(im->refs, ref, id);
        if (json_is_string(id))
            json_object_set(ids, json_string_value(id), id);
        json_decref(doc);
    }
    if (rc == 0 && json_object_size(ids) != 1)
        rc =
            err_set(err, ERR_REFUSED, EINVAL,
                    "the archive holds %zu images; give one that holds one", json_object_size(ids));
    if (rc == 0)
        im->id = json_string_value(json_object_iter_value(json_object_iter(im->refs)));
    json_decref(ids);
    return rc;
}

static int plain_call(struct backend *b, const char *method, const char *path, struct error *err)
{
    struct engine_call c = {
        .method = method, .path = path, .deadline = soon(ASK_MS), .cancel_fd = -1};
    struct engine_reply r;

    int rc = engine_call(b->engine, &c, &r, err);
    if (rc < 0)
        return rc;
    if (r.status >= 300)
        rc = engine_refusal(&r, err, "%s %s", method, path);
    engine_reply_done(&r);
    return rc;
}

/* `name` is one with a tag. */
static int tag_image(struct backend *b, const char *id, const char *name, struct error *err)
{
    const char *colon = strrchr(name, ':');
    char *repo = curl_easy_escape(NULL, name, (int)(colon - name));
    char *tag = curl_easy_escape(NULL, colon + 1, 0);
    cleanup_free char *path = xasprintf("/images/%s/tag?repo=%s&tag=%s", id, repo, tag);

    curl_free(repo);
    curl_free(tag);
    return plain_call(b, "POST", path, err);
}

/* The same name, also as Podman spells it out. */
static bool same_name(const char *ref, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(homes); i++) {
        size_t len = strlen(homes[i]);
        if (strncmp(ref, homes[i], len) == 0 && strcmp(ref + len, name) == 0)
            return true;
    }
    return strcmp(ref, name) == 0;
}

/* What had the name gets one of its own, since jobs may wait for it. */
static int keep_replaced(struct import *im, struct error *err)
{
    json_t *value;
    const char *ref;
    int rc = 0;

    json_object_foreach(im->before, ref, value)
    {
        const char *was = json_string_value(value);
        if (rc < 0 || !same_name(ref, im->name) || strcmp(was, im->id) == 0)
            continue;
        cleanup_free char *kept = image_name_kept(was);
        cleanup_free char *tagged = xasprintf("%s%s", kept, latest);
        rc = tag_image(im->b, was, tagged, err);
    }
    return rc;
}

/* Takes back what the load did to names other than ours. What cannot be taken back stays as a name
 * too many. */
static void tidy(struct import *im)
{
    json_t *value;
    const char *ref;

    json_object_foreach(im->refs, ref, value)
    {
        const char *was = json_string_value(json_object_get(im->before, ref));
        const char *is = json_string_value(value);
        if (im->id && (same_name(ref, im->name) || strcmp(ref, im->id) == 0))
            continue;
        if (!was) {
            cleanup_free char *path = xasprintf("/images/%s", ref);
            plain_call(im->b, "DELETE", path, NULL);
        } else if (is && strcmp(was, is) != 0 && strchr(ref, ':') && strcmp(ref, was) != 0) {
            tag_image(im->b, was, ref, NULL);
        }
    }
}

int docker_remove_image(struct backend *b, const char *name, struct error *err)
{
    char *escaped = curl_easy_escape(NULL, name, 0);
    cleanup_free char *path = xasprintf("/images/%s", escaped);
    int rc = plain_call(b, "DELETE", path, err);

    curl_free(escaped);
    return rc == -ENOENT ? 0 : rc;
}

int docker_import(struct backend *b, const char *path, const char *name, struct error *err)
{
    const char *slash = strrchr(name, '/');
    bool tagged = strchr(slash ? slash : name, ':') != NULL;
    const char *bad = name_check_image(name, strlen(name));

    if (!bad && strchr(name, '@'))
        bad = "holds a digest";
    /* but in a tenant's host name */
    for (const char *p = name + (image_name_is_reserved(name) ? strcspn(name, "/") : 0);
         !bad && *p && *p != ':'; p++)
        if (*p >= 'A' && *p <= 'Z')
            bad = "holds capitals, which engines refuse";
    if (bad)
        return err_set(err, ERR_REFUSED, EINVAL, "image name %.255s %s", name, bad);
    cleanup_free char *full = xasprintf("%s%s", name, tagged ? "" : latest);
    struct import im = {.b = b, .name = full, .before = json_object(), .refs = json_object()};
    pthread_mutex_lock(&b->import_lock);
    int rc = snapshot(&im, err);
    if (rc == 0) {
        rc = load(&im, path, err);
        if (rc == 0)
            rc = settle(&im, err);
        if (rc == 0)
            rc = keep_replaced(&im, err);
        if (rc == 0)
            rc = tag_image(b, im.id, full, err);
        if (rc < 0)
            im.id = NULL;
        tidy(&im);
        set_before(b, NULL);
    }
    pthread_mutex_unlock(&b->import_lock);
    json_decref(im.before);
    json_decref(im.refs);
    return rc;
}
