#ifndef MILONGA_CLIENT_SHOW_H
#define MILONGA_CLIENT_SHOW_H

/* Members of an answer, for showing: what is absent or null is "-" or 0. */

#include "base/buf.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

const char *show_text(const json_t *object, const char *member);
int64_t show_number(const json_t *object, const char *member);
bool show_flag(const json_t *object, const char *member);

/* As vsnprintf(), with "?" for each control character, which a terminal would obey. */
void show_clean(char *text, size_t size, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

/* "NAME        TEXT", control characters as "?". */
void show_line(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The answer on stdout, indented; numbers as short as they were sent. */
void show_json(const json_t *answer);

/* "" for one, "s" for none or several: "1 job", "2 jobs". */
const char *show_s(int64_t count);

/* "a, b, c", or "-"; in `out`. */
const char *show_words(const json_t *words, struct buf *out);

#endif
