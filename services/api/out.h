#ifndef MILONGA_API_OUT_H
#define MILONGA_API_OUT_H

/* JSON written as Tango wrote it: ", " and ": " between things, \uXXXX for all that is not
 * ASCII, and "<\/" for "</". */

#include "base/buf.h"

#include <stdbool.h>

/* A JSON string. Bytes that are not UTF-8 become U+FFFD. */
void out_str(struct buf *b, const char *s, size_t len);
void out_cstr(struct buf *b, const char *s);
/* The key of an object's member, with its ": ". `first` says whether a ", " goes before. */
void out_key(struct buf *b, const char *key, bool first);

/* What most answers begin with: {"statusId": N, "statusMsg": "TEXT"
 * The caller adds members and the brace. */
void out_status(struct buf *b, int status_id, const char *text);

#endif
