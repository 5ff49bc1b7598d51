#ifndef MILONGA_EC2_XML_H
#define MILONGA_EC2_XML_H

/* A small XML document as a tree of elements with text: what a Query API answers. Read by expat; a
 * document type (and with it every entity of one's own) is refused, and depth and size are bounded.
 * Attributes and mixed content are of no use here and left out. */

#include "base/err.h"

#include <stddef.h>

struct xml {
    char *name;
    char *text;        /* "" for none; of an element with children, what stands between them */
    struct xml *first; /* child */
    struct xml *next;  /* sibling */
    struct xml *up;
};

/* *ret is the root element, the caller's to xml_free(). */
int xml_parse(const char *data, size_t len, struct xml **ret, struct error *err);
void xml_free(struct xml *x);

/* The first element at a path of names below x, such as "reservationSet/item"; NULL for none. */
const struct xml *xml_find(const struct xml *x, const char *path);
/* Its text, "" for none; valid as long as the tree. */
const char *xml_text(const struct xml *x, const char *path);

/* for (const struct xml *i = xml_find(x, "item"); i; i = xml_next(i)): siblings of the same name.
 */
const struct xml *xml_next(const struct xml *x);

#endif
