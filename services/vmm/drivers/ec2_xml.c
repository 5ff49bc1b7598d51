#include "services/vmm/drivers/ec2_xml.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <expat.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#define DEPTH_MAX   32
#define ELEMENT_MAX 1000000
#define TEXT_MAX    (16 << 20)

struct reading {
    XML_Parser parser;
    struct xml *root, *at;
    struct buf text; /* of the element that is open */
    unsigned depth, elements;
    const char *wrong;
};

static void stop(struct reading *r, const char *why)
{
    if (!r->wrong)
        r->wrong = why;
    XML_StopParser(r->parser, XML_FALSE);
}

static void keep_text(struct reading *r)
{
    if (r->at && r->text.len > 0 && r->at->text[0] == '\0') {
        free(r->at->text);
        r->at->text = xstrndup(r->text.data, r->text.len);
    }
    buf_clear(&r->text);
}

static void on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
    struct reading *r = arg;

    (void)attributes;
    if (++r->depth > DEPTH_MAX || ++r->elements > ELEMENT_MAX) {
        stop(r, "too deep or too large");
        return;
    }
    buf_clear(&r->text);
    struct xml *x = xcalloc(1, sizeof(*x));
    x->name = xstrdup(name);
    x->text = xstrdup("");
    x->up = r->at;
    if (!r->root) {
        r->root = x;
    } else if (r->at) {
        /* put in front, turned round at the end of the parent: no walk along long lists */
        x->next = r->at->first;
        r->at->first = x;
    }
    r->at = x;
}

static struct xml *turn_round(struct xml *list)
{
    struct xml *done = NULL;

    while (list) {
        struct xml *next = list->next;
        list->next = done;
        done = list;
        list = next;
    }
    return done;
}

static void on_end(void *arg, const XML_Char *name)
{
    struct reading *r = arg;

    (void)name;
    if (!r->at)
        return;
    if (!r->at->first)
        keep_text(r);
    buf_clear(&r->text);
    r->at->first = turn_round(r->at->first);
    r->at = r->at->up;
    r->depth--;
}

static void on_text(void *arg, const XML_Char *text, int len)
{
    struct reading *r = arg;

    if (buf_append(&r->text, text, (size_t)len) < 0)
        stop(r, "text of more than 16 MB");
}

static void on_doctype(void *arg, const XML_Char *name, const XML_Char *system,
                       const XML_Char *public, int internal)
{
    (void)name, (void)system, (void)public, (void)internal;
    stop(arg, "a document type, which no such answer has");
}

int xml_parse(const char *data, size_t len, struct xml **ret, struct error *err)
{
    struct reading r = {.parser = XML_ParserCreate(NULL), .text = BUF_INIT(TEXT_MAX)};

    if (!r.parser)
        abort(); /* memory */
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    bool ok = len < INT_MAX && XML_Parse(r.parser, data, (int)len, XML_TRUE) == XML_STATUS_OK;
    const char *why = r.wrong ? r.wrong : XML_ErrorString(XML_GetErrorCode(r.parser));
    XML_ParserFree(r.parser);
    buf_free(&r.text);
    if (!ok) {
        xml_free(r.root);
        return err_set(err, ERR_TEMPORARY, EPROTO, "the answer is not XML: %s",
                       why ? why : "too large");
    }
    *ret = r.root;
    return 0;
}

/* By the parents' pointers, not by recursion. */
void xml_free(struct xml *x)
{
    while (x) {
        if (x->first) {
            struct xml *child = x->first;
            x->first = child->next;
            child->next = NULL;
            child->up = x;
            x = child;
            continue;
        }
        struct xml *up = x->up;
        free(x->name);
        free(x->text);
        free(x);
        x = up;
    }
}

static const struct xml *named(const struct xml *x, const char *name, size_t len)
{
    while (x && (strlen(x->name) != len || memcmp(x->name, name, len) != 0))
        x = x->next;
    return x;
}

const struct xml *xml_find(const struct xml *x, const char *path)
{
    while (x && *path) {
        size_t len = strcspn(path, "/");
        x = named(x->first, path, len);
        path += len + (path[len] == '/');
    }
    return x;
}

const char *xml_text(const struct xml *x, const char *path)
{
    const struct xml *found = xml_find(x, path);

    return found ? found->text : "";
}

const struct xml *xml_next(const struct xml *x)
{
    return named(x->next, x->name, strlen(x->name));
}
